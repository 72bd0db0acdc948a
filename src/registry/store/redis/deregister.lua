-- ARGV: ttl, id. Answers 1, or 0 where the id held no lease.
local id = ARGV[2]
local held = holds_lease(id)
local listed = redis.call('HEXISTS', ROSTER, id) == 1
remove(id)
if listed then moved() end
return held and 1 or 0
