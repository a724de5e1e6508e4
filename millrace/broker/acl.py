"""The least that each role must be allowed in Redis: these commands, on keys that begin with `millrace:`.

Tests run every role with exactly this, and without each command in turn; docs/reference/redis-keys.md is made of it.
"""

from collections.abc import Mapping, Sequence

KEYS = "millrace:*"
_WORKER = (
    *("script|load", "evalsha", "time", "hvals", "hdel", "hset", "hget", "xlen"),
    *("xgroup|create", "xgroup|delconsumer", "xinfo|consumers", "xreadgroup", "zcard", "zmscore"),
    *("xtrim", "xadd", "xack", "xdel", "hincrby", "xpending", "xclaim"),  # reply, finish, claim, renew, release.lua
    *("zremrangebyscore", "zadd", "zrevrange", "pexpireat"),  # cancel.lua
    "xread",
    *("exists", "rpush", "pexpire", "lrange", "unlink"),  # fragments, store.lua
)
COMMANDS: Mapping[str, Sequence[str]] = {
    "api": (
        *("script|load", "evalsha", "time", "hvals", "pexpire", "del"),
        *("xgroup|create", "xread", "xtrim"),
        *("hmget", "xadd", "hincrby", "zrem", "zrangebyscore"),  # append.lua, with zadd
        *("rpush", "lrange", "unlink"),  # fragments
        *("zremrangebyscore", "zadd", "zrevrange", "pexpireat"),  # cancel.lua
        *("hget", "hdel", "hset"),  # desired_state.lua
        "hgetall",  # what is asked with API keys
        *("xlen", "xrange", "xpending"),  # depth.lua
    ),
    "worker": _WORKER,
    "worker-with-code": (*_WORKER, "hmget", "zrem", "zrangebyscore", "del"),  # models that call models: append.lua
    "dead-letters": ("scan", "xrange", "xlen", "xdel", "xtrim", "del"),
}
CLUSTER_COMMANDS = ("cluster|slots", "asking")  # for every role, in a Cluster


def rules(role: str) -> str:
    """What follows `ACL SETUSER name` for a role, beside its password."""
    return " ".join(["on", f"~{KEYS}", *(f"+{command}" for command in COMMANDS[role])])
