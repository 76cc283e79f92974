-- Reads the head of an inbox and leaves it there: at most ARGV[1] requests and, after the first, ARGV[2] bytes.
-- A request of over ARGV[3] bytes is returned as an empty one: it is refused without its content being sent. Requests are
-- read one by one, for each is copied: a client may append as large ones as the server lets it.
-- KEYS: inbox, taking, taken. ARGV[4]: the inbox's field in taken; ARGV[5]: for how many ms no other intake reads it.
-- Returns how often the inbox was taken from ('' if never), then the requests.
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'list' and kind ~= 'none' then
  redis.call('UNLINK', KEYS[1])  -- clients make a list: a key of another type holds no requests
end
local answer, bytes, at = {redis.call('HGET', KEYS[3], ARGV[4]) or ''}, 0, 0
if redis.call('LLEN', KEYS[1]) == 0 or not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[5]) then
  return answer
end
while #answer <= tonumber(ARGV[1]) do
  local request = redis.call('LINDEX', KEYS[1], at)
  bytes = bytes + (request and #request or 0)
  if not request or (at > 0 and bytes > tonumber(ARGV[2])) then
    return answer
  end
  answer[#answer + 1] = #request > tonumber(ARGV[3]) and '' or request
  at = at + 1
end
return answer
