//! The rules of settings, one test each.

mod refusals;

use tempfile::TempDir;

use super::limits::LIMITS;
use super::*;

const SECRET: &str = "s3cr3t";

/// Arranges the sources of one load; files live in a folder of their own.
struct Sources {
    folder: TempDir,
    flags: Flags,
    env: BTreeMap<String, String>,
}

fn sources() -> Sources {
    Sources { folder: TempDir::new().unwrap(), flags: Flags::default(), env: BTreeMap::new() }
}

impl Sources {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn dotenv(self, text: &str) -> Self {
        fs::write(self.folder.path().join(".env"), text).unwrap();
        self
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.folder.path().join("x.toml");
        fs::write(&path, text).unwrap();
        self.flags.config = Some(path);
        self
    }

    fn flags(mut self, args: &[&str]) -> Self {
        let config = self.flags.config.take();
        self.flags = Flags::try_parse_from([&["fusewire"], args].concat()).unwrap();
        self.flags.config = self.flags.config.take().or(config);
        self
    }

    fn try_load(self) -> Result<Loaded, SettingsError> {
        load(&self.flags, &self.env, Some(&self.folder.path().join(".env")))
    }

    fn load(self) -> Settings {
        self.try_load().unwrap().settings
    }

    fn printed(self) -> String {
        self.try_load().unwrap().to_string()
    }

    /// Returns the one line that stops the start; it never holds the secret.
    fn refusal(self) -> String {
        let folder = self.folder.path().display().to_string();
        let line = self.try_load().unwrap_err().to_string().replace(&folder, "DIR");
        assert!(!line.contains('\n') && !line.contains(SECRET), "{line}");
        line
    }

    fn address(self) -> (String, Option<String>) {
        let endpoint = self.load().redis.endpoint;
        (endpoint.to_string(), endpoint.password.map(|password| password.expose().to_owned()))
    }
}

#[test]
fn embedded_defaults_load_and_validate() {
    let Settings { server, redis, threads, breakers, memory, fallback, log } = sources().load();
    assert_eq!(server.listen, [Listen::Tcp("127.0.0.1:50051".to_owned())]);
    assert_eq!(server.drain_deadline, Duration::from_secs(10));
    assert_eq!((server.max_request_bytes, server.max_response_bytes), (8 << 20, 64 << 20));
    assert_eq!((server.max_concurrent_streams, server.max_concurrent_calls), (1000, 1000));
    assert_eq!(server.max_open_streams, 2000);
    assert_eq!(server.keepalive_interval, Duration::from_secs(30));
    assert_eq!(server.keepalive_timeout, Duration::from_secs(20));
    assert_eq!((redis.enabled, redis.required, redis.pool_size), (true, false, 4));
    assert_eq!(redis.endpoint, Endpoint::default());
    assert_eq!(redis.connect_timeout, Duration::from_secs(1));
    assert_eq!(redis.command_timeout, Duration::from_secs(5));
    assert_eq!(redis.key_prefix, "");
    let TlsSettings { ca_file, cert_file, key_file, accept_unverified_name } = redis.tls;
    assert_eq!((ca_file, cert_file, key_file, accept_unverified_name), (None, None, None, false));
    assert_eq!(threads.default_ttl, Duration::from_hours(2));
    assert_eq!(threads.sweep_interval, Duration::from_hours(1));
    assert_eq!((threads.max_messages, threads.max_bytes), (100_000, 256 << 20));
    assert_eq!((memory.max_bytes, memory.copy_bytes, memory.copy_threads), (256 << 20, 64 << 20, 10_000));
    assert_eq!(memory.max_breakers, 10_000);
    assert_eq!((fallback.journal_bytes, fallback.journal_entries), (64 << 20, 100_000));
    assert_eq!((fallback.journal_path, fallback.journal_fsync), (None, Fsync::Always));
    assert_eq!(breakers.policies, Policies::default());
    assert_eq!((log.format, log.filter.as_str()), (LogFormat::Text, "info"));
}

#[test]
fn default_url_and_default_parts_mean_the_same() {
    let without_url = sources().env("FUSEWIRE__REDIS__DB", "0").load();
    assert_eq!(without_url.redis.endpoint, sources().load().redis.endpoint);
}

#[test]
fn every_default_is_commented_and_its_comment_states_the_limits() {
    let mut section = String::new();
    let mut comment = String::new();
    let mut seen = Vec::new();
    for line in layers::DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment = format!("{comment} {text}");
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            comment.clear();
        } else if let Some((key, _)) = line.split_once(" = ") {
            let key = format!("{section}.{key}");
            assert!(!comment.is_empty() || key == "redis.host", "{key} has no comment");
            if let Some((_, limit)) = LIMITS.iter().find(|(limited, _)| *limited == key) {
                assert!(comment.contains(&format!("({})", limit.range())), "{key}: {comment}");
                seen.push(key);
            }
            comment.clear();
        }
    }
    assert_eq!(seen.len(), LIMITS.len());
}

#[test]
fn each_layer_beats_those_below() {
    let file = || sources().file("threads.default_ttl = '1m'");
    let dotenv = || file().dotenv("FUSEWIRE__THREADS__DEFAULT_TTL=2m");
    let env = || dotenv().env("FUSEWIRE__THREADS__DEFAULT_TTL", "3m");
    let set = || env().flags(&["--set", "threads.default_ttl=4m"]);
    let ttls =
        [sources(), file(), dotenv(), env(), set()].map(|s| s.load().threads.default_ttl.as_secs() / 60);
    assert_eq!(ttls, [120, 1, 2, 3, 4]);
}

#[test]
fn a_named_flag_beats_set_and_the_last_set_counts() {
    let settings = sources()
        .flags(&["--listen", "a:1,unix:/b", "--no-redis", "--log-format", "json", "--redis-url", "redis://c"])
        .load();
    assert_eq!(settings.server.listen, [Listen::Tcp("a:1".to_owned()), Listen::Unix("/b".into())]);
    assert!(!settings.redis.enabled);
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.redis.endpoint.to_string(), "redis://c:6379/0");
    let flags =
        ["--log-format", "json", "--set", "log.format=text", "--set", "redis.db=1", "--set", "redis.db=2"];
    let settings = sources().flags(&flags).load();
    assert_eq!((settings.log.format, settings.redis.endpoint.db), (LogFormat::Json, 2));
}

#[test]
fn plain_names_mean_what_they_always_did() {
    let settings = sources()
        .env("REDIS_HOST", "cache")
        .env("REDIS_PORT", "6380")
        .env("REDIS_DB", "3")
        .env("REDIS_USERNAME", "app")
        .env("REDIS_PASSWORD", "a%40@:/b")
        .env("REDIS_CONNECTION_POOL_SIZE", "9")
        .env("RUST_LOG", "warn,fusewire=debug")
        .load();
    assert_eq!(settings.redis.endpoint.to_string(), "redis://app:***@cache:6380/3");
    assert_eq!(settings.redis.endpoint.password.unwrap().expose(), "a%40@:/b");
    assert_eq!(settings.redis.pool_size, 9);
    assert_eq!(settings.log.filter, "warn,fusewire=debug");
    assert_eq!(sources().dotenv("REDIS_URL=redis://d/1").address().0, "redis://d:6379/1");
}

#[test]
fn use_redis_takes_words_and_digits_in_any_case() {
    for (text, enabled) in [
        ("true", true),
        ("TRUE", true),
        ("1", true),
        ("Yes", true),
        ("false", false),
        ("0", false),
        ("NO", false),
    ] {
        assert_eq!(sources().env("USE_REDIS", text).load().redis.enabled, enabled, "{text}");
    }
}

#[test]
fn empty_plain_variables_count_as_not_set() {
    let names = ["REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "USE_REDIS", "RUST_LOG"];
    let empty = names.into_iter().fold(sources(), |sources, name| sources.env(name, ""));
    assert_eq!(empty.printed(), sources().printed());
    let beneath = sources().dotenv("REDIS_HOST=cache").env("REDIS_HOST", "");
    assert_eq!(beneath.address().0, "redis://cache:6379/0");
}

#[test]
fn a_url_in_any_layer_beats_the_parts_of_all() {
    let low_url =
        sources().file("redis.url = 'redis://u'").env("REDIS_HOST", "h").flags(&["--set", "redis.db=5"]);
    assert_eq!(low_url.address().0, "redis://u:6379/0");
}

#[test]
fn parts_that_lose_to_a_url_cannot_stop_the_start() {
    let kubernetes = || sources().env("REDIS_PORT", "tcp://10.0.0.1:6379");
    assert_eq!(kubernetes().env("REDIS_URL", "redis://u").address().0, "redis://u:6379/0");
    assert_eq!(
        kubernetes().refusal(),
        "redis.port from environment REDIS_PORT: must be a whole number, found \"tcp://10.0.0.1:6379\""
    );
}

#[test]
fn an_own_name_beats_the_plain_one_within_a_layer_only() {
    let both = sources().env("REDIS_URL", "redis://plain").env("FUSEWIRE__REDIS__URL", "redis://own");
    assert_eq!(both.address().0, "redis://own:6379/0");
    let layered = sources().dotenv("FUSEWIRE__REDIS__URL=redis://own").env("REDIS_URL", "redis://plain");
    assert_eq!(layered.address().0, "redis://plain:6379/0");
}

#[test]
fn an_empty_own_url_gives_way_to_the_parts() {
    let emptied =
        sources().file("redis.url = 'redis://u'").env("FUSEWIRE__REDIS__URL", "").env("REDIS_HOST", "h");
    assert_eq!(emptied.address().0, "redis://h:6379/0");
}

#[test]
fn nested_and_listed_variables_reach_their_keys() {
    let settings = sources()
        .env("FUSEWIRE__REDIS__TLS__CA_FILE", "/nowhere/unused-without-tls.pem")
        .env("FUSEWIRE__SERVER__LISTEN", " [::1]:0, localhost:50051 ,unix:/run/f.sock")
        .env("UNRELATED", "x")
        .load();
    assert_eq!(settings.redis.tls.ca_file.unwrap(), Path::new("/nowhere/unused-without-tls.pem"));
    let shown: Vec<_> = settings.server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["[::1]:0", "localhost:50051", "unix:/run/f.sock"]);
}

#[test]
fn policies_come_from_files_and_comma_separated_variables() {
    let lines = ["openai:* llm open_duration=10s half_open_permits=3", "* rate"].map(str::to_owned);
    let expected = Policies::parse(&lines).unwrap();
    let file = sources().file(&format!("breakers.policies = {lines:?}"));
    let variable = || sources().env("FUSEWIRE__BREAKERS__POLICIES", &lines.join(", "));
    assert_eq!(file.load().breakers.policies, expected);
    assert_eq!(variable().load().breakers.policies, expected);
    let printed = format!("breakers.policies = {lines:?}  # environment FUSEWIRE__BREAKERS__POLICIES");
    assert!(variable().printed().lines().any(|line| line == printed), "{printed}");
}

#[test]
fn durations_and_sizes_take_their_written_forms() {
    let settings = sources().file("server = { max_request_bytes = 5000000, max_response_bytes = '16 MB', drain_deadline = '1m 5s' }").load();
    assert_eq!(
        (settings.server.max_request_bytes, settings.server.max_response_bytes),
        (5_000_000, 16_000_000)
    );
    assert_eq!(settings.server.drain_deadline, Duration::from_secs(65));
}

#[test]
fn dotenv_takes_quotes_exports_comments_and_a_byte_order_mark() {
    let text = "\u{feff}export REDIS_HOST=cache # note\nREDIS_PASSWORD='p$a#s s'\nOTHER=\"x\"\n";
    assert_eq!(
        sources().dotenv(text).address(),
        ("redis://default:***@cache:6379/0".into(), Some("p$a#s s".into()))
    );
}

#[test]
fn secrets_are_masked_wherever_settings_are_shown() {
    let url = format!("redis://app:{SECRET}@host");
    let loaded = sources().env("REDIS_URL", &url).try_load().unwrap();
    let parts = sources().dotenv(&format!("REDIS_PASSWORD={SECRET}")).try_load().unwrap();
    let flags = sources().flags(&["--redis-url", &url, "--set", &format!("redis.password={SECRET}")]).flags;
    for shown in [format!("{loaded:?} {loaded}"), format!("{parts:?} {parts}"), format!("{flags:?}")] {
        assert!(!shown.contains(SECRET) && shown.contains("***"), "{shown}");
    }
}

#[test]
fn print_config_shows_every_setting_with_its_source() {
    let printed = sources()
        .file("threads.default_ttl = '1h'")
        .dotenv("REDIS_CONNECTION_POOL_SIZE=8")
        .env("REDIS_URL", "redis://app:s3cr3t@host/2")
        .env("REDIS_DB", "7")
        .flags(&["--listen", "a:1,b:2"])
        .try_load()
        .unwrap();
    let lines: Vec<_> = printed.to_string().lines().map(str::to_owned).collect();
    assert!(lines.is_sorted() && lines.len() == 41, "{printed}");
    for line in [
        "breakers.policies = []  # defaults",
        "log.filter = \"info\"  # defaults",
        "memory.max_breakers = 10000  # defaults",
        "redis.pool_size = 8  # .env REDIS_CONNECTION_POOL_SIZE",
        "redis.url = \"redis://app:***@host:6379/2\"  # environment REDIS_URL",
        "redis.db = 0  # not used: redis.url is given",
        "server.listen = [\"a:1\", \"b:2\"]  # flag --listen",
    ] {
        assert!(lines.iter().any(|printed| printed == line), "{line} in {printed}");
    }
    assert!(printed.to_string().contains("threads.default_ttl = \"1h\"  # file /"));
}

#[test]
fn print_config_shows_the_address_built_from_parts() {
    let printed = sources().env("REDIS_HOST", "h").env("REDIS_PASSWORD", SECRET).printed();
    for line in [
        "redis.url = \"redis://default:***@h:6379/0\"  # built from host, port, db, username, password",
        "redis.password = \"***\"  # environment REDIS_PASSWORD",
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
}

#[test]
fn help_holds_flags_layers_names_and_all_defaults() {
    let help = Flags::try_parse_from(["fusewire", "--help"]).unwrap_err().to_string();
    for part in ["--print-config", "FUSEWIRE__SECTION__KEY", "REDIS_CONNECTION_POOL_SIZE", "--config <FILE>"]
    {
        assert!(help.contains(part), "{part}");
    }
    for line in layers::DEFAULTS.lines() {
        assert!(help.contains(line), "{line}");
    }
}
