//! A bare connection to Redis, for what a test sets up and asserts behind the service's back.

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    RedisResult, Value,
};

/// No test waits longer than this for one answer; a server that is busy on purpose stays well below.
const ANSWER: Duration = Duration::from_secs(10);

/// One connection, not reopened when it breaks: ask the server for another one after a restart.
#[derive(Clone)]
pub(crate) struct Raw {
    connection: MultiplexedConnection,
}

impl Raw {
    pub(crate) async fn connect(socket: &Path, user: &str, password: &str) -> RedisResult<Self> {
        let credentials = RedisConnectionInfo::default().set_username(user).set_password(password);
        let info =
            ConnectionAddr::Unix(socket.to_owned()).into_connection_info()?.set_redis_settings(credentials);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER));
        let connection = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection })
    }

    /// Runs one command (its name and arguments, any bytes) and returns the reply.
    ///
    /// # Panics
    /// When Redis answers with an error or not at all.
    pub(crate) async fn run(&self, command: &[impl AsRef<[u8]>]) -> Value {
        self.get(command).await
    }

    /// Runs one command and returns the reply as a `T`.
    ///
    /// # Panics
    /// When Redis answers with an error, with something that is no `T`, or not at all.
    pub(crate) async fn get<T: FromRedisValue>(&self, command: &[impl AsRef<[u8]>]) -> T {
        match self.try_get(command).await {
            Ok(reply) => reply,
            Err(error) => panic!("redis did not do {}: {error}", shown(command)),
        }
    }

    /// Runs one command whose failure is of interest.
    pub(crate) async fn try_get<T: FromRedisValue>(&self, command: &[impl AsRef<[u8]>]) -> RedisResult<T> {
        let mut packed = redis::Cmd::new();
        for part in command {
            packed.arg(part.as_ref());
        }
        packed.query_async(&mut self.connection.clone()).await
    }
}

/// A command as one would type it, long arguments cut.
fn shown(command: &[impl AsRef<[u8]>]) -> String {
    let parts =
        command.iter().map(|part| part.as_ref().escape_ascii().to_string().chars().take(80).collect());
    parts.collect::<Vec<String>>().join(" ")
}
