-- ARGV: ttl, identity, members as JSON. A Redis that has lost its memory gets back what a registry remembers: each member
-- that holds no lease gets a whole one. An identity that is not empty becomes that of this memory, unless it has one.
local added = false
for i = 3, #ARGV do
  local member = cjson.decode(ARGV[i])
  local id = member.instance_id
  if not holds_lease(id) then
    put(id, member)
    renew(id)
    redis.call('HSET', ROSTER, id, ARGV[i])
    added = true
  end
end
if added then moved() end
if ARGV[2] ~= '' then redis.call('HSETNX', CLOCK, 'ring', ARGV[2]) end
return 1
