"""What the URLs of the queue mean."""

import pytest

from millrace.broker.discovery import ClusterServers, OneServer, SentinelServers, servers, without_secrets
from millrace.protocol.errors import Unavailable


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p@h:1/2?ssl_cert_reqs=none", "unix:///a/b?db=2", "redis://:p@h"]
)
def test_one_server_is_where_its_url_says(url: str) -> None:
    found = servers(url)
    assert isinstance(found, OneServer)
    assert found.known("key") == found.find("key") == url
    assert found.everyone() == [url]


def test_the_nodes_of_a_cluster_are_entered_as_its_url_says() -> None:
    found = servers("rediss+cluster://user:p%40ss@one:7000,two?ssl_ca_certs=%2Fca.crt")
    assert isinstance(found, ClusterServers)
    assert found.at("10.0.0.1", 7001) == "rediss://user:p%40ss@10.0.0.1:7001/?ssl_ca_certs=%2Fca.crt"
    assert found.at("fe80::1", 7001).startswith("rediss://user:p%40ss@[fe80::1]:7001/")
    assert found.known("key") is None


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://h", "begins with redis://, rediss://, unix://, redis\\+sentinel://"),
        ("redis://h:port", "port"),
        ("redis://h?no_such_option=1", "an option behind '\\?' that redis-py does not have"),
        ("redis://h/name", "the number of a database"),
        ("redis://u:p?x=s@h", "percent-encoded"),
        ("redis+sentinel://h:26379", "ends with the master's name"),
        ("redis+sentinel:///mill", "names its hosts"),
        ("redis+sentinel://one,,two/mill", "names its hosts"),
        ("redis+cluster://h:7000/3", "only database 0"),
        ("redis+cluster://", "names its hosts"),
    ],
)
def test_a_url_that_is_wrong_is_refused_in_words(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        servers(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://user:hunter2@h:1/2?ssl_cert_reqs=none", "rediss://h:1/2"),
        ("unix://user:hunter2@/run/redis.sock?db=2", "unix:///run/redis.sock"),
        ("redis+sentinel://:hunter2@one:26379,two/mill/0", "redis+sentinel://one:26379,two/mill/0"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis://h:6379?password=hunter2", "redis://h:6379"),
        ("redis://:hunter2", "redis://…"),
        ("redis://user:12?hunter2@h", "redis://…"),
        ("redis://:hun/ter2", "redis://…"),
        ("hunter2://h", "the given URL"),
        ("hunter2", "the given URL"),
    ],
)
def test_of_a_url_only_where_it_leads_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_sentinels_and_nodes_that_do_not_answer_are_unavailable() -> None:
    sentinels = servers("redis+sentinel://127.0.0.1:1/mill/2")
    assert isinstance(sentinels, SentinelServers)
    with pytest.raises(Unavailable, match="no Redis Sentinel that answers has a master 'mill'"):
        sentinels.find("key")
    with pytest.raises(Unavailable, match="the Redis Cluster cannot be reached"):
        servers("redis+cluster://127.0.0.1:1").find("key")
