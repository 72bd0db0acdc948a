-- What all scripts of netring share. KEYS are the five below, in this order; ARGV[1] is the length of a lease in ms.
--
--   netring:clock           hash  wall, now: ring time; ring: the identity of this memory; changed: when the roster changed
--   netring:expiry          zset  instance id -> end of its lease, in ms of ring time
--   netring:active_members  set   instance ids, shared with older programs
--   netring:roster          hash  instance id -> the member as JSON, for reading the whole roster at once
--   netring:revision        int   joins, leaves and moves so far
--   netring:member:<id>     hash  the member, shared with older programs, and `renewed`: the last_seen that we wrote or took over
--
-- Ring time is Redis's clock with its jumps and our outages taken out: each tick moves it on by what Redis's clock has moved
-- since the tick before, though never back and never by more than 5 s.
local CLOCK, EXPIRY, ACTIVE, ROSTER, REVISION = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local TTL = tonumber(ARGV[1])
local LONGEST_SILENCE = 5000

local time = redis.call('TIME')
local seconds = tonumber(time[1])
local wall = seconds * 1000 + math.floor(tonumber(time[2]) / 1000)

local function ring_now()
  local clock = redis.call('HMGET', CLOCK, 'wall', 'now')
  if clock[1] and clock[2] then
    return tonumber(clock[2]) + math.min(math.max(wall - tonumber(clock[1]), 0), LONGEST_SILENCE)
  end
  -- No tick yet, or the key was lost: as if the newest lease had been renewed this moment.
  local newest = redis.call('ZREVRANGE', EXPIRY, 0, 0, 'WITHSCORES')
  return newest[2] and tonumber(newest[2]) - TTL or wall
end
local now = ring_now()

local function member_key(id) return 'netring:member:' .. id end

local function whole(number) return string.format('%.0f', number) end

local function moved()
  redis.call('INCR', REVISION)
  redis.call('HSET', CLOCK, 'changed', time[1] .. '.' .. time[2])
end

-- The fields of a member's hash; all false where the key holds something else.
local function fields(id, ...)
  local found = redis.pcall('HMGET', member_key(id), ...)
  if found.err then return {} end
  return found
end

-- Writes fields of a member's hash, in the place of whatever else the key held.
local function write(id, ...)
  if type(redis.pcall('HSET', member_key(id), ...)) == 'table' then
    redis.call('DEL', member_key(id))
    redis.call('HSET', member_key(id), ...)
  end
end

local function lease(id)
  local ends = redis.call('ZSCORE', EXPIRY, id)
  return ends and tonumber(ends)
end

-- What is left of a lease that an older program has renewed since we last looked, in ms. Older programs let the hash itself
-- run out with the lease, so Redis knows.
local function renewed_elsewhere(id)
  local found = fields(id, 'last_seen', 'renewed')
  if not found[1] or found[1] == found[2] then return nil end
  local left = redis.call('PTTL', member_key(id))
  if left < 0 or left > TTL then left = TTL end
  return left, found[1]
end

local function hold(id, left)
  redis.call('ZADD', EXPIRY, whole(now + left), id)
end

-- Takes over what an older program wrote about a member; false where it wrote nothing.
local function adopt(id)
  local found = fields(id, 'location', 'ip', 'port', 'registered_at', 'last_seen')
  if not (found[1] or found[2] or found[3] or found[5]) then return false end
  redis.call('HSET', ROSTER, id, cjson.encode({
    instance_id = id, location = found[1], ip = found[2], port = found[3],
    registered_at = found[4] or found[5], last_seen = found[5],
  }))
  return true
end

-- A member that only an older program has told of so far becomes ours; false where there is none.
local function adopt_new(id)
  if redis.call('SISMEMBER', ACTIVE, id) == 0 or not adopt(id) then return false end
  local left, seen = renewed_elsewhere(id)
  if seen then redis.call('HSET', member_key(id), 'renewed', seen) end
  hold(id, left or TTL)
  moved()
  return true
end

local function put(id, member)
  write(id, 'instance_id', id, 'location', member.location, 'ip', member.ip, 'port', member.port,
    'registered_at', member.registered_at, 'last_seen', member.last_seen, 'renewed', member.last_seen, 'status', 'active')
end

-- Gives a member a whole lease. The hash lives longer than the lease, and not for ever, should no registry be left to tidy.
local function renew(id)
  hold(id, TTL)
  redis.call('SADD', ACTIVE, id)
  redis.call('PEXPIRE', member_key(id), whole(2 * TTL))
end

local function remove(id)
  redis.call('ZREM', EXPIRY, id)
  redis.call('SREM', ACTIVE, id)
  redis.call('HDEL', ROSTER, id)
  redis.call('DEL', member_key(id))
end

-- Whether a member holds a lease, from us or from an older program.
local function holds_lease(id)
  local ends = lease(id)
  if ends then return ends > now or renewed_elsewhere(id) ~= nil end
  return adopt_new(id)
end
