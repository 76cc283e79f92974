-- Reads what is stored under some names, in their order, until the answer has ARGV[1] bytes: the server ends the connection
-- of a client that is sent more than its limit, and what is stored under one name may be as large as a request.
-- KEYS: strings; or hashes, of which the fields ARGV[2], … are read.
-- Returns what is stored under the first names, under at least one: of hashes the fields, one after the other. What is
-- not there is nil.
local most, fields = tonumber(table.remove(ARGV, 1)), ARGV
local answer, bytes = {}, 0
for _, name in ipairs(KEYS) do
  local found = #fields == 0 and redis.call('MGET', name) or redis.call('HMGET', name, unpack(fields))
  for _, value in ipairs(found) do
    answer[#answer + 1] = value
    bytes = bytes + (value and #value or 0)
  end
  if bytes >= most then
    break
  end
end
return answer
