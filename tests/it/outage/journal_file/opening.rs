//! Files that a service finds at its start: locked, foreign, torn.

use std::fs::{self, File};

use super::{Folder, SOON};
use crate::{
    outage::merging::{append_locally, assert_numbered, merge_all},
    support::{
        fusewire::{Fusewire, FusewireOptions},
        threads::{Threads, numbered},
    },
};

/// Checks that a service does not start, and says why in one line; answers that.
async fn refusal(options: FusewireOptions) -> String {
    let mut service = Fusewire::spawn(options);
    assert_eq!(service.wait_exit(SOON).await.code(), Some(1));
    let errors: Vec<String> = service.log().into_iter().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(service.logged("listening"), 0);
    errors[0].clone()
}

#[tokio::test]
async fn a_second_process_does_not_start_and_the_first_goes_on() {
    let folder = Folder::new();
    let on = folder.start().await;
    on.threads().create("t").await;
    on.lose().await;
    append_locally(&on.threads(), "t", numbered(1, 1)).await;
    let refused = refusal(folder.options().var("REDIS_URL", &on.redis.url())).await;
    assert!(refused.contains(folder.journal().to_str().unwrap()), "{refused}");
    assert!(refused.contains("in use") && refused.contains("journal.lock"), "{refused}");
    append_locally(&on.threads(), "t", numbered(2, 2)).await;
    merge_all(&on).await;
    assert_numbered(&on.threads(), "t", 2).await;
}

#[tokio::test]
async fn what_is_no_journal_of_this_version_is_left_alone() {
    let folder = Folder::new();
    let files: [(&[u8], &str); 2] =
        [(b"FUSEJRNL\0\0\0\x02............", "version 2"), (b"A file of somebody else.", "something else")];
    for (content, expected) in files {
        fs::write(folder.journal(), content).unwrap();
        let refused = refusal(folder.options()).await;
        assert!(refused.contains(folder.journal().to_str().unwrap()), "{refused}");
        assert!(refused.contains(expected), "{refused}");
        assert_eq!(fs::read(folder.journal()).unwrap(), content);
    }
}

#[tokio::test]
async fn a_directory_that_is_missing_is_told() {
    let folder = Folder::new();
    let path = folder.0.path().join("missing/journal");
    let path = path.to_str().unwrap();
    let refused = refusal(FusewireOptions::unix_socket().var("FUSEWIRE__FALLBACK__JOURNAL_PATH", path)).await;
    assert!(refused.contains(path) && refused.contains("cannot find its directory"), "{refused}");
}

#[tokio::test]
async fn without_redis_nothing_waits_and_the_file_is_not_made() {
    let folder = Folder::new();
    let service = Fusewire::start(folder.options().var("USE_REDIS", "false")).await;
    assert_eq!(service.logged("fallback.journal_path"), 1, "{:#?}", service.log());
    Threads::on(service.channel().await).create("t").await;
    assert!(!folder.journal().exists());
}

#[tokio::test]
async fn of_a_torn_file_only_the_last_append_is_lost() {
    let folder = Folder::new();
    let mut on = folder.start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    append_locally(&threads, "t", numbered(4, 5)).await;
    append_locally(&threads, "t", numbered(6, 7)).await;
    on.service.kill();
    let file = File::options().write(true).open(folder.journal()).unwrap();
    file.set_len(folder.bytes() - 3).unwrap();

    on.replace_service(folder.options()).await;
    let log = on.service.log();
    let torn: Vec<&String> = log.iter().filter(|line| line.contains("torn end")).collect();
    assert!(torn.len() == 1 && torn[0].contains("WARN"), "{log:#?}");
    merge_all(&on).await;
    let threads = on.threads();
    assert_numbered(&threads, "t", 5).await;
    threads.append("t", numbered(6, 7)).await;
    assert_numbered(&threads, "t", 7).await;
}
