//! The running service: what its log says and keeps to itself, and where it listens.

use std::time::Duration;

use fusewire::grpc::proto::{
    Authority, ConversationThread, GetContextRequest, ListMessagesRequest, ToolCall, part::Kind,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::transport::Endpoint;

use crate::support::{
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    port::ReservedPort,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    threads::{
        Threads, appending, changing, cut_after, forking, listing, message, part, revising, thread, user,
    },
};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn the_start_tells_redis_ping_ttl_sweep_and_address_in_this_order() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("s3cr3t")).await;
    let options = FusewireOptions::tcp()
        .var("REDIS_URL", &redis.url_as("default", "s3cr3t"))
        .var("FUSEWIRE__THREADS__DEFAULT_TTL", "90m")
        .var("FUSEWIRE__THREADS__SWEEP_INTERVAL", "30m");
    let service = Fusewire::start(options).await;
    let log = service.log();
    let masked = format!("redis://default:***@{}/0", redis.addr());
    let mut at = 0;
    for expected in [
        ["using redis", masked.as_str()],
        ["connecting to redis", ""],
        ["redis answered the ping", "version=\"7."],
        ["thread time to live", "1h 30m"],
        ["thread sweep", "30m"],
        ["listening", "address=127.0.0.1:"],
    ] {
        let found = log[at..].iter().position(|line| expected.iter().all(|part| line.contains(part)));
        at += found.unwrap_or_else(|| panic!("{expected:?} after line {at} of {log:#?}"));
    }
    assert!(log.iter().any(|line| line.contains("round_trip")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("s3cr3t")), "{log:#?}");
}

/// What must not be in any log: marks in every place that a caller can write to, and what opens something.
const MARKS: [&str; 7] = [
    "MARK-text",
    "MARK-arguments",
    "MARK-title",
    "MARK-label",
    "MARK-extra",
    "MARK-signature",
    "MARK-password",
];

fn marked(id: &str) -> fusewire::grpc::proto::Message {
    let call = Kind::ToolCall(ToolCall {
        call_id: "c".into(),
        name: "f".into(),
        arguments_json: "{\"MARK-arguments\":1}".into(),
    });
    let mut marked = user(id, "MARK-text");
    marked.parts.push(fusewire::grpc::proto::Part { signature: "MARK-signature".into(), ..part(call) });
    marked.extra.insert("k".into(), "MARK-extra".into());
    marked.labels.insert("k".into(), "MARK-label".into());
    marked
}

/// Every rpc with marked content, and what was handed out that opens something: page tokens.
async fn use_everything(threads: &Threads) -> Vec<String> {
    let labels = [("k".to_owned(), "MARK-label".to_owned())].into();
    let new = ConversationThread { title: "MARK-title".into(), labels, owner: "ann".into(), ..thread("t") };
    threads.try_create(new.clone()).await.unwrap();
    for n in 0..5 {
        threads.append("t", vec![marked(&format!("m{n}"))]).await;
    }
    let other = message("m1", fusewire::grpc::proto::Role::User, "MARK-text again");
    threads.try_append(appending("t", vec![other.clone()])).await.unwrap_err();
    threads.get("t").await.unwrap();
    threads.touch("t", None).await.unwrap();
    let request = ListMessagesRequest { page_size: 2, ..listing("t") };
    let token = threads.page(request.clone()).await.unwrap().next_page_token;
    let next = ListMessagesRequest { page_token: token.clone(), ..request.clone() };
    threads.page(next).await.unwrap();
    threads.page(ListMessagesRequest { page_token: "MARK-text".into(), ..request }).await.unwrap_err();
    let context = GetContextRequest { thread_id: "t".into(), ..Default::default() };
    threads.client.clone().get_context(context).await.unwrap();
    threads.update(changing(new, &["title", "labels"])).await.unwrap();
    threads.update_message(revising("t", other, &["parts"])).await.unwrap();
    assert_eq!(threads.owned("ann", 0).await, ["t"]);
    threads.fork(forking("t", "copy")).await.unwrap();
    threads.truncate(cut_after("t", 2)).await.unwrap();
    threads.delete("t").await.unwrap();
    assert!(!token.is_empty());
    vec![token]
}

#[tokio::test]
async fn no_log_at_any_level_tells_content_passwords_or_tokens() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("MARK0password")).await;
    let through_redis = FusewireOptions::unix_socket().var("REDIS_URL", &redis.url());
    let in_memory = FusewireOptions::tcp().var("USE_REDIS", "false");
    for options in [through_redis, in_memory] {
        let mut service = Fusewire::start(options.var("RUST_LOG", "trace")).await;
        let mut secrets = use_everything(&Threads::on(service.channel().await)).await;
        service.signal(Signal::SIGTERM);
        service.wait_exit(SOON).await;
        secrets.extend(MARKS.map(str::to_owned));
        secrets.push("MARK0password".to_owned());
        let log = service.log();
        eprintln!("{} lines at trace", log.len());
        assert!(log.len() > 50, "{log:#?}");
        // Bytes may be shown as text, in hex or as numbers.
        let text = b"MARK-text";
        let hex = text.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        secrets.extend([hex, format!("{text:?}").trim_matches(['[', ']']).to_owned()]);
        for secret in secrets {
            let told = log.iter().find(|line| line.contains(&secret));
            assert!(told.is_none(), "{secret:?} is in the log: {told:?}");
        }
    }
}

#[tokio::test]
async fn a_redis_that_refuses_the_password_is_told_without_it() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("right")).await;
    let options = FusewireOptions::unix_socket()
        .var("REDIS_URL", &redis.url_as("default", "MARK0password"))
        .var("RUST_LOG", "trace");
    let service = Fusewire::start(options).await;
    Threads::on(service.channel().await).peek("t").await.unwrap_err();
    assert!(service.logged("WRONGPASS") >= 1, "{:#?}", service.log());
    assert_eq!(service.logged("MARK0password"), 0, "{:#?}", service.log());
}

#[tokio::test]
async fn every_store_operation_is_told_at_debug_with_its_duration() {
    let redis = RedisServer::start(RedisOptions::unix_socket()).await;
    let options = FusewireOptions::unix_socket()
        .var("REDIS_URL", &redis.url())
        .var("RUST_LOG", "fusewire=debug")
        .var("FUSEWIRE__LOG__FORMAT", "json");
    let mut service = Fusewire::start(options).await;
    use_everything(&Threads::on(service.channel().await)).await;
    service.signal(Signal::SIGTERM);
    service.wait_exit(SOON).await;
    let mut told: Vec<String> = Vec::new();
    for line in service.log() {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
        assert!(
            line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
        if line["message"] == "redis answered" {
            assert!(line["duration_us"].is_u64() && line["level"] == "DEBUG", "{line}");
            told.push(line["operation"].as_str().unwrap().to_owned());
        }
    }
    told.sort();
    told.dedup();
    eprintln!("operations told: {told:?}");
    assert!(told.len() >= 10, "{told:?}");
}

#[tokio::test]
async fn every_operation_on_memory_is_told_too() {
    let options = FusewireOptions::unix_socket()
        .var("USE_REDIS", "false")
        .var("RUST_LOG", "fusewire=debug")
        .var("FUSEWIRE__LOG__FORMAT", "json");
    let mut service = Fusewire::start(options).await;
    use_everything(&Threads::on(service.channel().await)).await;
    service.signal(Signal::SIGTERM);
    service.wait_exit(SOON).await;
    let mut told: Vec<String> = Vec::new();
    for line in service.log() {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
        if line["message"] == "memory answered" {
            assert!(line["duration_us"].is_u64() && line["level"] == "DEBUG", "{line}");
            told.push(line["span"]["method"].as_str().unwrap().to_owned());
        }
    }
    told.sort();
    told.dedup();
    eprintln!("operations told: {told:?}");
    assert_eq!(told.len(), 12, "{told:?}");
}

#[tokio::test]
async fn a_sweep_tells_what_it_removed() {
    let redis = RedisServer::start(RedisOptions::unix_socket()).await;
    let raw = redis.raw().await;
    let shard = "conversation_threads:expiring:{3}";
    // What threads that were evicted or expired long ago leave behind.
    raw.run(&["ZADD", shard, "1000", "ann gone-1", "2000", "ann gone-2"]).await;
    let options = FusewireOptions::unix_socket()
        .var("REDIS_URL", &redis.url())
        .var("FUSEWIRE__THREADS__SWEEP_INTERVAL", "1s");
    let service = Fusewire::start(options).await;
    let line = service.wait_for_log("swept expired threads", SOON).await;
    assert!(line.contains("removed=2"), "{line}");
    assert_eq!(raw.get::<u64>(&["ZCARD", shard]).await, 0);
}

#[tokio::test]
async fn several_addresses_are_served_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("second.sock").display());
    let options = FusewireOptions::tcp()
        .var("USE_REDIS", "false")
        .var("FUSEWIRE__SERVER__LISTEN", &format!("127.0.0.1:0,{socket},[::1]:0"));
    let mut service = Fusewire::start(options).await;
    eventually("it listens everywhere", SOON, async || service.logged("listening") == 3).await;
    Threads::on(service.channel().await).create("t").await;
    let six = service.log().into_iter().find(|line| line.contains("[::1]:")).unwrap();
    let six = format!("http://{}", six.split("address=").nth(1).unwrap().trim());
    for uri in [socket.clone(), six] {
        let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        assert_eq!(Threads::on(channel).append("t", vec![user("", "x")]).await.authority(), Authority::Local);
    }
    service.signal(Signal::SIGTERM);
    assert!(service.wait_exit(SOON).await.success());
    assert!(!dir.path().join("second.sock").exists());
}

#[tokio::test]
async fn an_occupied_address_stops_the_start_with_one_line() {
    let port = ReservedPort::any();
    let _listener = port.listen().unwrap();
    let first = Fusewire::start(FusewireOptions::unix_socket().var("USE_REDIS", "false")).await;
    for address in
        [port.addr().to_string(), first.uri().to_owned(), "unix:/no/such/directory/x.sock".to_owned()]
    {
        let options = FusewireOptions::unix_socket()
            .var("USE_REDIS", "false")
            .var("FUSEWIRE__SERVER__LISTEN", &address);
        let mut service = Fusewire::spawn(options);
        assert_eq!(service.wait_exit(SOON).await.code(), Some(1));
        let errors: Vec<String> = service.log().into_iter().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        eprintln!("{}", errors[0]);
        let path = address.strip_prefix("unix:").unwrap_or(&address);
        assert!(errors[0].contains("cannot listen on") && errors[0].contains(path), "{errors:#?}");
    }
    // The one that was there first goes on.
    Threads::on(first.channel().await).create("t").await;
}
