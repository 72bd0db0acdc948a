-- ARGV: ttl, identity, members as JSON. A Redis that has lost its memory gets back what a registry remembers: each member
-- that holds no lease gets a whole one. An identity that is not empty becomes that of this memory. Answers 1, or 0 where
-- this memory has an identity: then nothing was done, for whoever is missing from it has left.
if redis.call('HEXISTS', CLOCK, 'ring') == 1 then return 0 end
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
if ARGV[2] ~= '' then redis.call('HSET', CLOCK, 'ring', ARGV[2]) end
return 1
