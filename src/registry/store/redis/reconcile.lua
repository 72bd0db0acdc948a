-- ARGV: ttl, ids. Brings our index in step with what older programs did to these members: added, moved, removed.
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('SISMEMBER', ACTIVE, id) == 0 then
    if lease(id) then
      remove(id)
      moved()
    end
  elseif not lease(id) then
    adopt_new(id)
  elseif fields(id, 'location')[1] then
    local before = redis.call('HGET', ROSTER, id)
    adopt(id)
    if redis.call('HGET', ROSTER, id) ~= before then moved() end
  end
end
return 1
