-- ARGV: ttl. Moves ring time on and ends the leases that are over, 500 at a time. Answers the identity of this memory (empty
-- where it has none: then nothing was done), revision, when the roster changed, ms to the first end of a lease (-1: there is
-- none), sizes of set and index, and the ids whose leases were ended.
local ring = redis.call('HGET', CLOCK, 'ring')
if not ring then return { '', 0, '', -1, 0, 0, {} } end
redis.call('HSET', CLOCK, 'wall', whole(wall), 'now', whole(now))

local expired = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', whole(now), 'LIMIT', 0, 500)) do
  local left, seen = renewed_elsewhere(id)
  if left then
    redis.call('HSET', member_key(id), 'renewed', seen)
    hold(id, left)
  else
    remove(id)
    table.insert(expired, id)
  end
end
if #expired > 0 then moved() end

local first = redis.call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')
local left = first[2] and math.max(tonumber(first[2]) - now, 0) or -1
return { ring, tonumber(redis.call('GET', REVISION) or 0), redis.call('HGET', CLOCK, 'changed') or '', left,
  redis.call('SCARD', ACTIVE), redis.call('ZCARD', EXPIRY), expired }
