-- ARGV: ttl, id. Answers 1, or 0 where the id holds no lease.
local id = ARGV[2]
if not holds_lease(id) then return 0 end
if fields(id, 'location')[1] then
  write(id, 'last_seen', time[1], 'renewed', time[1])
else
  -- Redis's clock jumped past the life of the hash; the lease goes by ring time and still runs.
  local member = redis.call('HGET', ROSTER, id)
  member = member and cjson.decode(member) or {}
  if type(member.location) ~= 'string' or type(member.ip) ~= 'string' or not member.port then return 0 end
  member.registered_at = member.registered_at or time[1]
  member.last_seen = time[1]
  put(id, member)
end
renew(id)
return 1
