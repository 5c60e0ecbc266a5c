//! The command line: what it shows, and how bad settings stop the start.

use std::time::Duration;

use crate::support::fusewire::{Fusewire, FusewireOptions};

const SOON: Duration = Duration::from_secs(15);

fn options() -> FusewireOptions {
    FusewireOptions::unix_socket()
}

/// Runs the program to its end; answers its exit code and all that it printed.
async fn ended(options: FusewireOptions) -> (Option<i32>, Vec<String>) {
    let mut service = Fusewire::spawn(options);
    let status = service.wait_exit(SOON).await;
    (status.code(), service.log())
}

/// The settings that exist, with their defaults, as the shipped file lists them.
fn defaults() -> Vec<(String, String)> {
    let text = include_str!("../../src/settings.default.toml");
    let mut section = String::new();
    let mut settings = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            settings.push((format!("{section}.{key}"), value.to_owned()));
        }
    }
    settings
}

#[tokio::test]
async fn print_config_shows_every_setting_and_where_it_came_from() {
    let options = options()
        .arg("--print-config")
        .arg("--config=given.toml")
        .arg("--set=server.drain_deadline=3s")
        .file("given.toml", "[redis]\npool_size = 5\nconnect_timeout = \"2s\"\n")
        .file(".env", "REDIS_CONNECTION_POOL_SIZE=6\nFUSEWIRE__THREADS__SWEEP_INTERVAL=7m\n")
        .var("FUSEWIRE__THREADS__DEFAULT_TTL", "8m")
        .var("RUST_LOG", "debug");
    let (code, lines) = ended(options).await;
    assert_eq!(code, Some(0), "{lines:#?}");
    for expected in [
        "redis.connect_timeout = \"2s\"  # file given.toml",
        "redis.pool_size = 6  # .env REDIS_CONNECTION_POOL_SIZE",
        "threads.sweep_interval = \"7m\"  # .env FUSEWIRE__THREADS__SWEEP_INTERVAL",
        "threads.default_ttl = \"8m\"  # environment FUSEWIRE__THREADS__DEFAULT_TTL",
        "log.filter = \"debug\"  # environment RUST_LOG",
        "server.drain_deadline = \"3s\"  # flag --set",
        "redis.command_timeout = \"5s\"  # defaults",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected:?} in {lines:#?}");
    }
    let shown: Vec<_> = lines.iter().map(|line| line.split(" = ").next().unwrap().to_owned()).collect();
    let mut keys: Vec<_> = defaults().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    assert_eq!(shown, keys);
}

#[tokio::test]
async fn print_config_masks_secrets_wherever_they_come_from() {
    for options in [
        options().var("REDIS_URL", "redis://app:s3cr3t@cache.internal:6380/2"),
        options()
            .var("REDIS_HOST", "cache.internal")
            .var("REDIS_USERNAME", "app")
            .var("REDIS_PASSWORD", "s3cr3t"),
        options().file(".env", "REDIS_URL=redis://app:s3cr3t@cache.internal\n"),
        options().arg("--redis-url=redis://app:s3cr3t@cache.internal"),
        options().arg("--set=redis.url=redis://app:s3cr3t@cache.internal"),
        options()
            .arg("--config=c.toml")
            .file("c.toml", "[redis]\nurl = \"redis://app:s3cr3t@cache.internal\"\npassword = \"s3cr3t\"\n"),
    ] {
        let (code, lines) = ended(options.arg("--print-config")).await;
        assert_eq!(code, Some(0), "{lines:#?}");
        let url = lines.iter().find(|line| line.starts_with("redis.url = ")).unwrap();
        assert!(url.contains("redis://app:***@cache.internal:"), "{url}");
        assert!(!lines.iter().any(|line| line.contains("s3cr3t")), "{lines:#?}");
    }
}

#[tokio::test]
async fn print_config_of_the_defaults_is_what_the_shipped_file_says() {
    let (code, lines) = ended(options().arg("--print-config").var("RUST_LOG", "info")).await;
    assert_eq!(code, Some(0));
    for (key, value) in defaults() {
        // What the test itself sets, and what is shown with the database spelled out.
        if ["server.listen", "redis.url", "log.filter"].contains(&key.as_str()) {
            continue;
        }
        let shown = lines.iter().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        assert!(shown.starts_with(&format!("{key} = {value}  # ")), "{shown} for {value}");
    }
}

#[tokio::test]
async fn help_names_every_setting_variable_and_flag() {
    let (code, lines) = ended(options().arg("--help")).await;
    assert_eq!(code, Some(0));
    let text = lines.join("\n");
    for (key, value) in defaults() {
        let (section, name) = key.rsplit_once('.').unwrap();
        assert!(text.contains(&format!("[{section}]")), "{section}");
        assert!(text.contains(&format!("{name} = {value}")), "{key}");
    }
    for name in [
        "USE_REDIS",
        "REDIS_URL",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_DB",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "REDIS_CONNECTION_POOL_SIZE",
        "RUST_LOG",
        "FUSEWIRE__",
        "--config",
        "--listen",
        "--redis-url",
        "--no-redis",
        "--log-format",
        "--set",
        "--print-config",
        "--help",
        "--version",
    ] {
        assert!(text.contains(name), "{name}");
    }
}

#[tokio::test]
async fn version_is_the_packages() {
    let (code, lines) = ended(options().arg("--version")).await;
    assert_eq!((code, lines), (Some(0), vec![format!("fusewire {}", env!("CARGO_PKG_VERSION"))]));
}

#[tokio::test]
async fn bad_settings_of_every_layer_stop_the_start_with_one_line() {
    const TTL: &str = "FUSEWIRE__THREADS__DEFAULT_TTL";
    let file = |text: &str| options().arg("--config=c.toml").file("c.toml", text);
    let dotenv = |text: &str| options().file(".env", text);
    let set = |pair: &str| options().arg(&format!("--set={pair}"));
    for (options, key, source, reason) in [
        // A key that there is not.
        (file("[threads]\nttl = \"1h\""), "threads.ttl", "file c.toml", "no such setting"),
        (
            dotenv("FUSEWIRE__THREADS__TTL=1h"),
            "threads.ttl",
            ".env FUSEWIRE__THREADS__TTL",
            "no such setting",
        ),
        (
            options().var("FUSEWIRE__THREADS__TTL", "1h"),
            "threads.ttl",
            "environment FUSEWIRE__THREADS__TTL",
            "no such setting",
        ),
        (set("threads.ttl=1h"), "threads.ttl", "flag --set", "no such setting"),
        // A value of another type.
        (file("[redis]\npool_size = \"many\""), "redis.pool_size", "file c.toml", "whole number"),
        (dotenv("REDIS_PORT=many"), "redis.port", ".env REDIS_PORT", "whole number"),
        (options().var("USE_REDIS", "maybe"), "redis.enabled", "environment USE_REDIS", "true or false"),
        (set("log.format=xml"), "log.format", "flag --set", "text or json"),
        (options().arg("--log-format=xml"), "log.format", "flag --log-format", "text or json"),
        // A value out of range.
        (file("[threads]\ndefault_ttl = \"0s\""), "threads.default_ttl", "file c.toml", "1s to 365d"),
        (dotenv(&format!("{TTL}=366d")), "threads.default_ttl", &format!(".env {TTL}"), "1s to 365d"),
        (options().var(TTL, "1ms"), "threads.default_ttl", &format!("environment {TTL}"), "1s to 365d"),
        (set("redis.pool_size=0"), "redis.pool_size", "flag --set", "1 to 256"),
        // Addresses.
        (options().var("REDIS_URL", "http://x"), "redis.url", "environment REDIS_URL", "redis://"),
        (options().arg("--redis-url=http://x"), "redis.url", "flag --redis-url", "redis://"),
        (options().arg("--listen=nowhere"), "server.listen", "flag --listen", "host:port"),
        (options().var("RUST_LOG", "fusewire=loud"), "log.filter", "environment RUST_LOG", "log filter"),
    ] {
        let (code, lines) = ended(options).await;
        assert_eq!((code, lines.len()), (Some(1), 1), "{key}: {lines:#?}");
        let line = &lines[0];
        assert!(line.starts_with(&format!("fusewire: {key} from {source}: ")), "{line}");
        assert!(line.contains(reason), "{line}");
    }
}

#[tokio::test]
async fn unreadable_sources_stop_the_start_with_one_line() {
    for (options, source) in [
        (options().arg("--config=missing.toml"), "file missing.toml"),
        (options().arg("--config=c.toml").file("c.toml", "[redis"), "file c.toml"),
        (options().arg("--config=c.toml").file("c.toml", "\u{0}"), "file c.toml"),
        (options().file(".env", "no equals sign here"), ".env"),
        (options().arg("--no-such-flag"), "flag --no-such-flag"),
        (options().arg("--set=nothing"), "flag --set"),
        (
            options().var("REDIS_URL", "rediss://x").var("FUSEWIRE__REDIS__TLS__CA_FILE", "/no/such/ca.pem"),
            "redis.tls.ca_file from environment FUSEWIRE__REDIS__TLS__CA_FILE",
        ),
    ] {
        let (code, lines) = ended(options).await;
        assert_eq!((code, lines.len()), (Some(1), 1), "{source}: {lines:#?}");
        assert!(lines[0].starts_with(&format!("fusewire: {source}: ")), "{}", lines[0]);
    }
}

#[tokio::test]
async fn a_refusal_repeats_no_secret() {
    for options in [
        options().var("REDIS_URL", "redis://app:s3cr3t@host:notaport"),
        options().arg("--redis-url=redis//app:s3cr3t@host"),
        options().arg("--set=redis.url=s3cr3t"),
        options().arg("--s3cr3t=--redis-url"),
        options().file(".env", "REDIS_URL='redis://app:s3cr3t@host:99999'\n"),
    ] {
        let (code, lines) = ended(options).await;
        assert_eq!((code, lines.len()), (Some(1), 1), "{lines:#?}");
        assert!(!lines[0].contains("app:s3cr3t"), "{}", lines[0]);
    }
}
