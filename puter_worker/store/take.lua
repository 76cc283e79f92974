-- Reads the head of an inbox and leaves it there: at most ARGV[1] requests and, after the first, ARGV[2] bytes.
-- A request of over ARGV[3] bytes is returned as an empty one: it is refused without its content being sent.
-- KEYS: inbox, taking, taken. ARGV[4]: namespace; ARGV[5]: for how many ms no other intake reads it.
-- Returns how often the inbox was taken from ('' if never), then the requests.
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'list' and kind ~= 'none' then
  redis.call('UNLINK', KEYS[1])  -- clients make a list: a key of another type holds no requests
end
local answer, bytes, at = {redis.call('HGET', KEYS[3], ARGV[4]) or ''}, 0, 0
if redis.call('LLEN', KEYS[1]) == 0 or not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[5]) then
  return answer
end
while true do
  local chunk = redis.call('LRANGE', KEYS[1], at, at + 49)
  for _, request in ipairs(chunk) do
    bytes = bytes + #request
    if #answer > tonumber(ARGV[1]) or (#answer > 1 and bytes > tonumber(ARGV[2])) then
      return answer
    end
    answer[#answer + 1] = #request > tonumber(ARGV[3]) and '' or request
  end
  if #chunk < 50 then
    return answer
  end
  at = at + 50
end
