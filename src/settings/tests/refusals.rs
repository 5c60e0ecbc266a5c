//! What stops the start: one line with key, source and reason, and no secret.

use super::*;

#[test]
fn ranges_are_kept_at_both_ends() {
    for (key, good, bad) in [
        ("server.drain_deadline", ["0s", "10m"], ["-1s", "601s"]),
        ("server.max_request_bytes", ["4MiB", "64MiB"], ["4194303", "65MiB"]),
        ("server.max_concurrent_calls", ["1", "100000"], ["0", "100001"]),
        ("server.max_open_streams", ["1", "100000"], ["0", "100001"]),
        ("redis.port", ["1", "65535"], ["0", "65536"]),
        ("redis.db", ["0", "2147483647"], ["-1", "2147483648"]),
        ("redis.pool_size", ["1", "256"], ["0", "257"]),
        ("redis.connect_timeout", ["10ms", "60s"], ["9ms", "61s"]),
        ("threads.default_ttl", ["1s", "365d"], ["999ms", "366d"]),
        ("threads.max_messages", ["1", "10000000"], ["0", "99999999999999999999"]),
        ("memory.max_bytes", ["64KiB", "1TiB"], ["1KiB", "99999999TiB"]),
        ("memory.max_breakers", ["100", "10000000"], ["99", "10000001"]),
    ] {
        let with = |value: &str| sources().flags(&["--set", &format!("{key}={value}")]);
        for value in good {
            with(value).load();
        }
        for value in bad {
            let line = with(value).refusal();
            assert!(line.starts_with(&format!("{key} from flag --set: ")) && line.contains(value), "{line}");
        }
    }
}

#[test]
fn a_refusal_names_key_source_and_reason() {
    let long = "k".repeat(65);
    for (given, line) in [
        (
            sources().env("FUSEWIRE__THREADS__DEFAULT_TTL", "5ms"),
            "threads.default_ttl from environment FUSEWIRE__THREADS__DEFAULT_TTL: must be 1s to 365d, found 5ms",
        ),
        (
            sources().env("FUSEWIRE__THREADS__DEFAULT_TTL", "2"),
            "threads.default_ttl from environment FUSEWIRE__THREADS__DEFAULT_TTL: \
             \"2\" is no duration: time unit needed, for example 2sec or 2ms",
        ),
        (sources().dotenv("REDIS_DB=x"), "redis.db from .env REDIS_DB: must be a whole number, found \"x\""),
        (
            sources().env("USE_REDIS", "maybe"),
            "redis.enabled from environment USE_REDIS: must be true or false (1 or 0, yes or no), found \"maybe\"",
        ),
        (
            sources().file("redis.pool_size = true"),
            "redis.pool_size from file DIR/x.toml: must be a whole number",
        ),
        (sources().file("redis.url = ['s3cr3t']"), "redis.url from file DIR/x.toml: must be a string"),
        (sources().file("redis.enabled = 1"), "redis.enabled from file DIR/x.toml: must be true or false"),
        (
            sources().env("FUSEWIRE__BREAKERS__POLICIES", "a rate,* llm open_duration=8d"),
            "breakers.policies from environment FUSEWIRE__BREAKERS__POLICIES: line 2, \"* llm open_duration=8d\": \
             open_duration: must be whole milliseconds, 1 ms to 7 days",
        ),
        (
            sources().file("breakers.policies = ['']"),
            "breakers.policies from file DIR/x.toml: line 1, \"\": must be PATTERN PROFILE [SETTING=VALUE]…",
        ),
        (
            sources().file("server.listen = [1]"),
            "server.listen from file DIR/x.toml: must be a list of strings",
        ),
        (
            sources().file("server.listen = []"),
            "server.listen from file DIR/x.toml: must name at least one address",
        ),
        (
            sources().file("server.max_request_bytes = '5 MiBs'"),
            "server.max_request_bytes from file DIR/x.toml: \
             \"5 MiBs\" is no size; write bytes or a unit, for example 256MiB",
        ),
        (
            sources().flags(&["--listen", "a:1,50051"]),
            "server.listen from flag --listen: \"50051\" is neither host:port, [IPv6]:port nor unix:/path",
        ),
        (
            sources().flags(&["--log-format", "xml"]),
            "log.format from flag --log-format: must be text or json, found \"xml\"",
        ),
        (
            sources().env("RUST_LOG", "a=b=c"),
            "log.filter from environment RUST_LOG: \"a=b=c\" is no log filter: error parsing level filter: \
             expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5",
        ),
        (
            sources().file(&format!("redis.key_prefix = '{long}'")),
            "redis.key_prefix from file DIR/x.toml: \
             must be at most 64 bytes of printable ASCII, without spaces and braces",
        ),
        (
            sources().env("REDIS_HOST", "redis://:s3cr3t@h"),
            "redis.host from environment REDIS_HOST: must be a host name or an IP address",
        ),
        (
            sources().env("REDIS_URL", "redis://:s3cr3t@h/x"),
            "redis.url from environment REDIS_URL: the database must be a number, 0 to 2147483647",
        ),
        (
            sources().flags(&["--set", "redis.tls.key_file=/k"]),
            "redis.tls.key_file from flag --set: needs redis.tls.cert_file too",
        ),
        (
            sources().env("REDIS_URL", "rediss://h").env("FUSEWIRE__REDIS__TLS__CA_FILE", "/nowhere"),
            "redis.tls.ca_file from environment FUSEWIRE__REDIS__TLS__CA_FILE: \
             cannot read /nowhere: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(given.refusal(), line);
    }
}

#[test]
fn unknown_keys_are_refused_in_every_layer() {
    let reason = "there is no such setting; --help lists them";
    for (given, place) in [
        (sources().file("redis.pasword = 's3cr3t'"), "redis.pasword from file DIR/x.toml"),
        (sources().file("[reddis]"), "reddis from file DIR/x.toml"),
        (sources().file("redis = 5"), "redis from file DIR/x.toml"),
        (sources().file("redis.url.x = 's3cr3t'"), "redis.url.x from file DIR/x.toml"),
        (sources().dotenv("FUSEWIRE__REDIS__PASS=s3cr3t"), "redis.pass from .env FUSEWIRE__REDIS__PASS"),
        (sources().env("FUSEWIRE__REDIS_URL", "s3cr3t"), "redis_url from environment FUSEWIRE__REDIS_URL"),
        (sources().env("fusewire__redis__url", "s3cr3t"), "redis.url from environment fusewire__redis__url"),
        (sources().flags(&["--set", "redis.pw=s3cr3t"]), "redis.pw from flag --set"),
    ] {
        assert_eq!(given.refusal(), format!("{place}: {reason}"));
    }
}

#[test]
fn unreadable_and_malformed_sources_are_refused_without_their_text() {
    let missing = sources().flags(&["--config", "/nowhere.toml"]).refusal();
    assert_eq!(missing, "file /nowhere.toml: No such file or directory (os error 2)");
    let toml = sources().file("[redis]\npassword = s3cr3t\n").refusal();
    assert!(toml.starts_with("file DIR/x.toml: TOML parse error at line 2, column"), "{toml}");
    let dotenv = sources().dotenv("A='1\n2'\nREDIS_PASSWORD=two words s3cr3t\nB='3\n4'\n").refusal();
    assert!(dotenv.starts_with(".env: line 3 is not NAME=value"), "{dotenv}");
    let folder = sources();
    fs::create_dir(folder.folder.path().join(".env")).unwrap();
    assert_eq!(folder.refusal(), ".env: Is a directory (os error 21)");
    assert_eq!(sources().flags(&["--set", SECRET]).refusal(), "flag --set: must be SECTION.KEY=VALUE");
}

#[test]
fn misuse_of_the_command_line_is_told_in_one_line_without_values() {
    let told = |args: &[&str]| {
        let misuse = Flags::try_parse_from([&["fusewire"], args].concat()).unwrap_err();
        flags::explain(&misuse).to_string()
    };
    assert_eq!(
        told(&["--redis-ur=redis://:s3cr3t@h"]),
        "flag --redis-ur: there is no such flag; --help lists the flags"
    );
    assert_eq!(told(&["s3cr3t"]), "command line: has an argument that is no flag; --help lists the flags");
    assert_eq!(told(&["--config"]), "flag --config: needs a value; --help lists the flags");
    assert_eq!(told(&["--no-redis=s3cr3t"]), "flag --no-redis: takes no value; --help lists the flags");
}
