//! Where Redis is: URLs and their parts, with secrets that cannot be printed by accident.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

const DEFAULT_PORT: u16 = 6379;

/// What a user name may hold unencoded in a URL; all else is encoded, so that a printed URL stays one.
const USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Holds a server, a database on it, and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the server listens.
    pub address: Address,
    /// Number of the database, 0 to 2,147,483,647.
    pub db: i64,
    /// ACL user; `None` for the default user. May stand without a password (a `nopass` user).
    pub username: Option<String>,
    /// Password, decoded.
    pub password: Option<Secret>,
}

/// Names where a Redis server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// Host name, IPv4 or IPv6 address, the last without brackets.
        host: String,
        /// Port, never 0.
        port: u16,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// A Unix socket, by absolute path.
    Unix(PathBuf),
}

/// Holds text that `Debug` and `Display` show as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Says why a text is no Redis URL, without repeating any of its secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAddress(String);

impl Secret {
    /// Returns the text itself: to log in with, never to print.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Endpoint {
    /// Returns whether the connection is encrypted.
    pub fn uses_tls(&self) -> bool {
        matches!(self.address, Address::Tcp { tls: true, .. })
    }
}

impl Default for Endpoint {
    /// Returns `redis://localhost:6379/0`.
    fn default() -> Self {
        let address = Address::Tcp { host: "localhost".to_owned(), port: DEFAULT_PORT, tls: false };
        Self { address, db: 0, username: None, password: None }
    }
}

/// Shows the endpoint as a URL with the password masked: `redis://default:***@host:6379/0`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.username.as_deref().map(|name| utf8_percent_encode(name, USER));
        match &self.address {
            Address::Tcp { host, port, tls } => {
                f.write_str(if *tls { "rediss://" } else { "redis://" })?;
                match (user, &self.password) {
                    (Some(user), Some(password)) => write!(f, "{user}:{password}@")?,
                    // A password alone is that of the default user.
                    (None, Some(password)) => write!(f, "default:{password}@")?,
                    (Some(user), None) => write!(f, "{user}@")?,
                    (None, None) => {}
                }
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    f.write_str(host)?;
                }
                write!(f, ":{port}/{}", self.db)
            }
            Address::Unix(path) => {
                write!(f, "unix://{}?db={}", path.display(), self.db)?;
                user.map_or(Ok(()), |user| write!(f, "&user={user}"))?;
                self.password.as_ref().map_or(Ok(()), |password| write!(f, "&pass={password}"))
            }
        }
    }
}

/// Accepts `redis://`, `rediss://`, `valkey://`, `valkeys://`, `unix://` and `redis+unix://`.
impl FromStr for Endpoint {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        parse(text).map_err(BadAddress)
    }
}

/// Builds an endpoint from parts taken literally; an empty user or password counts as none.
pub(super) fn from_parts(
    host: &str,
    port: u16,
    db: i64,
    username: String,
    password: String,
) -> Result<Endpoint, String> {
    let address = Address::Tcp { host: check_host(host)?, port, tls: false };
    Ok(Endpoint { address, db, username: non_empty(username), password: non_empty(password).map(Secret) })
}

/// Returns the host without brackets; the error is the reason.
pub(super) fn check_host(host: &str) -> Result<String, String> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let is_name = !bare.is_empty() && bare.chars().all(|c| c.is_alphanumeric() || "-._".contains(c));
    if bare.parse::<Ipv6Addr>().is_ok() || (is_name && bare == host) {
        Ok(bare.to_owned())
    } else {
        Err("must be a host name or an IP address".to_owned())
    }
}

fn parse(text: &str) -> Result<Endpoint, String> {
    let url = Url::parse(text).map_err(|error| {
        format!(
            "is no URL like redis://user:password@host:6379/0 ({error}); is the password percent-encoded?"
        )
    })?;
    if url.fragment().is_some() {
        return Err("must not have a # part; redis.tls has the settings for TLS, and # in a password is %23"
            .to_owned());
    }
    match url.scheme() {
        "redis" | "valkey" => parse_tcp(&url, false),
        "rediss" | "valkeys" => parse_tcp(&url, true),
        "unix" | "redis+unix" | "valkey+unix" => parse_unix(&url),
        _ => Err("must start with redis://, rediss://, valkey://, valkeys:// or unix://".to_owned()),
    }
}

fn parse_tcp(url: &Url, tls: bool) -> Result<Endpoint, String> {
    // An unencoded `/` or `?` in a password moves its rest, and the `@`, behind the host.
    if url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) {
        return Err("has an @ behind the host; percent-encode / ? # @ and % in the password".to_owned());
    }
    if let Some((name, _)) = url.query_pairs().find(|(name, _)| name != "protocol") {
        return Err(unsupported(&name, "TLS is set by redis.tls, the database by /N in the path"));
    }
    let host = decode(url.host_str().unwrap_or_default())?;
    let host = check_host(&host).map_err(|reason| format!("the host {reason}"))?;
    let port = url.port().unwrap_or(DEFAULT_PORT);
    if port == 0 {
        return Err("the port must be 1 to 65535".to_owned());
    }
    Ok(Endpoint {
        address: Address::Tcp { host, port, tls },
        db: parse_db(url.path().trim_matches('/'))?,
        username: non_empty(decode(url.username())?),
        password: non_empty(decode(url.password().unwrap_or_default())?).map(Secret),
    })
}

fn parse_unix(url: &Url) -> Result<Endpoint, String> {
    let path = decode(url.path())?;
    if url.has_host() || !path.starts_with('/') || path == "/" {
        return Err("must have an absolute path: unix:///path/to/socket".to_owned());
    }
    let mut endpoint =
        Endpoint { address: Address::Unix(path.into()), db: 0, username: None, password: None };
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "db" => endpoint.db = parse_db(&value)?,
            "user" | "username" => endpoint.username = non_empty(value.into_owned()),
            "pass" | "password" => endpoint.password = non_empty(value.into_owned()).map(Secret),
            "protocol" => {}
            _ => return Err(unsupported(&name, "use db, user and pass")),
        }
    }
    Ok(endpoint)
}

fn parse_db(text: &str) -> Result<i64, String> {
    let db = if text.is_empty() { Some(0) } else { text.parse().ok() };
    // Redis keeps the number in a C int.
    db.filter(|db| (0..=i64::from(i32::MAX)).contains(db))
        .ok_or_else(|| "the database must be a number, 0 to 2147483647".to_owned())
}

/// Names the parameter only when it looks like one: what an unencoded password left behind must not be shown.
fn unsupported(name: &str, instead: &str) -> String {
    if name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        format!("the query parameter {name} is not supported; {instead}")
    } else {
        format!("has a query parameter that is not supported; {instead}")
    }
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "is not UTF-8 once percent-decoded".to_owned())
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        url.parse().unwrap()
    }

    fn bad_url(url: &str) -> String {
        let error = url.parse::<Endpoint>().unwrap_err().to_string();
        assert!(!error.contains("s3cr3t") && !error.contains('\n'), "{error}");
        error
    }

    fn password(url: &str) -> String {
        endpoint(url).password.unwrap().expose().to_owned()
    }

    #[test]
    fn urls_of_every_shape_are_understood() {
        for (url, shown) in [
            ("redis://host", "redis://host:6379/0"),
            ("redis://host/", "redis://host:6379/0"),
            ("redis://:pw@host", "redis://default:***@host:6379/0"),
            ("redis://user:pw@host:7000/3", "redis://user:***@host:7000/3"),
            ("redis://user@host", "redis://user@host:6379/0"),
            ("redis://host/2147483647", "redis://host:6379/2147483647"),
            ("redis://my_cache-1.internal?protocol=3", "redis://my_cache-1.internal:6379/0"),
            ("redis://[::1]:7000/1", "redis://[::1]:7000/1"),
            ("redis://10.0.0.1", "redis://10.0.0.1:6379/0"),
            ("valkey://host", "redis://host:6379/0"),
            ("rediss://default:pw@host:6380", "rediss://default:***@host:6380/0"),
            ("valkeys://host", "rediss://host:6379/0"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
            ("redis+unix:///run/r.sock?db=1&user=u&pass=p", "unix:///run/r.sock?db=1&user=u&pass=***"),
        ] {
            assert_eq!(endpoint(url).to_string(), shown);
        }
        assert!(endpoint("rediss://h").uses_tls() && endpoint("valkeys://h").uses_tls());
        assert!(!endpoint("redis://h").uses_tls() && !endpoint("unix:///s").uses_tls());
    }

    #[test]
    fn user_and_password_of_urls_are_percent_decoded() {
        assert_eq!(password("redis://:p%40a%3As%2Fs%25%3F%23w%2B@host"), "p@a:s/s%?#w+");
        assert_eq!(password("redis://:p%C3%A4ss+1@host"), "päss+1");
        assert_eq!(password("redis://:100%@host"), "100%");
        assert_eq!(password("redis://:a:b@c@host"), "a:b@c");
        assert_eq!(password("unix:///s?pass=p%40%26%2B"), "p@&+");
        assert_eq!(endpoint("redis://us%2Fer:x@host").username.unwrap(), "us/er");
        assert_eq!(endpoint("redis://us%2Fer:x@host").to_string(), "redis://us%2Fer:***@host:6379/0");
    }

    #[test]
    fn bad_urls_are_refused_with_a_reason() {
        for (url, reason) in [
            ("", "is no URL"),
            ("host:6379", "must start with"),
            ("http://:s3cr3t@host", "must start with"),
            ("redis://:s3cr3t/x@host", "is no URL"),
            ("redis://u:12/s3cr3t@host", "has an @ behind the host"),
            ("redis://u:12?s3cr3t@host", "has an @ behind the host"),
            ("redis://:s3cr3t@", "is no URL"),
            ("redis://", "the host must be"),
            ("redis://:s3cr3t@host:99999", "invalid port"),
            ("redis://:s3cr3t@host:0", "the port must be"),
            ("redis://:s3cr3t@host/abc", "the database must be"),
            ("redis://host/-1", "the database must be"),
            ("redis://host/2147483648", "the database must be"),
            ("redis://:%FFs3cr3t@host", "not UTF-8"),
            (
                "rediss://:s3cr3t@host?ssl_cert_reqs=none",
                "ssl_cert_reqs is not supported; TLS is set by redis.tls",
            ),
            ("rediss://:s3cr3t@host#insecure", "redis.tls"),
            ("unix://run/redis.sock", "absolute path"),
            ("unix:///run/redis.sock?pas=s3cr3t", "pas is not supported"),
        ] {
            let error = bad_url(url);
            assert!(error.contains(reason), "{url}: {error}");
        }
    }
}
