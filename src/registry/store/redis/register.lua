-- ARGV: ttl, id, location, ip, port, max_members. Answers full, joined, moved or renewed.
local id = ARGV[2]
local new = { instance_id = id, location = ARGV[3], ip = ARGV[4], port = ARGV[5],
  registered_at = time[1], last_seen = time[1] }
local answer = 'joined'
if holds_lease(id) then
  local old = redis.call('HGET', ROSTER, id)
  old = old and cjson.decode(old) or {}
  answer = 'moved'
  if old.location == new.location and old.ip == new.ip and tostring(old.port) == new.port then
    answer = 'renewed'
    new.registered_at = old.registered_at or new.registered_at
  end
elseif redis.call('ZCOUNT', EXPIRY, '(' .. whole(now), '+inf') >= tonumber(ARGV[6]) then
  return 'full'
end
put(id, new)
renew(id)
if answer ~= 'renewed' then
  redis.call('HSET', ROSTER, id, cjson.encode(new))
  moved()
end
return answer
