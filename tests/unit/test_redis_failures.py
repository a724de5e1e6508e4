"""What an error of Redis', or of Valkey, means to a caller."""

import pytest

from millrace.broker.connections import failure

_FULL = "the queue's Redis is out of memory"
_ACL = "the ACL of the queue's Redis lacks a permission"


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", _FULL),
        ("ERR Error running script (call to f_1): @user_script:28: -OOM command not allowed", _FULL),
        ("NOPERM this user has no permissions to run the 'xadd' command", _ACL),
        ("NOPERM User api has no permissions to run the 'xadd' command script: 1, on @user_script:28.", _ACL),
        ("ERR Error running script: @user_script:28: The user executing the script can't run this command", _ACL),
        ("ERR ACL failure in script: User api has no permissions to run the 'xadd' command script: 1", _ACL),
        ("MOVED 3999 127.0.0.1:6381", "its URL must begin with redis"),
        ("WRONGTYPE Operation against a key", "the queue's Redis failed: WRONGTYPE Operation"),
    ],
)  # fmt: skip
def test_errors_are_told_in_words_that_help(error: str, meaning: str) -> None:
    assert meaning in str(failure(error))
