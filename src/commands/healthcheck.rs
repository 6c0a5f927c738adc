//! `freshet healthcheck`: the health check of a container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

/// The role itself gives up on a service that does not answer earlier than this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// The status of a role that can do its work.
pub(super) const OK: &str = "200";
/// An answer is a line for each thing that is missing, or one for each metric.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Asks `/readyz` of the role that listens on `listen`; prints what it answers.
///
/// # Errors
/// If nothing answers there, or the role cannot do its work; with what is missing.
pub async fn run(listen: &str) -> anyhow::Result<()> {
    let address = address(listen).await?;
    let (status, body) = ask(address, "/readyz").await?;
    let lines = body.lines().collect::<Vec<_>>().join("; ");
    anyhow::ensure!(status == OK, "the role is not ready: {lines} (HTTP {status})");
    println!("{lines}");
    Ok(())
}

/// The address to connect to for a listener on `listen`: loopback for a wildcard address.
async fn address(listen: &str) -> anyhow::Result<SocketAddr> {
    anyhow::ensure!(!listen.is_empty(), "http.listen is empty, so the role serves no HTTP");
    let mut found = lookup_host(listen).await.with_context(|| format!("look up http.listen = {listen}"))?;
    let address = found.next().with_context(|| format!("look up http.listen = {listen}: no address"))?;
    anyhow::ensure!(
        address.port() != 0,
        "http.listen = {listen} means any free port: set a fixed port for health checks"
    );
    let loopback: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let ip = if address.ip().is_unspecified() { loopback } else { address.ip() };
    Ok(SocketAddr::new(ip, address.port()))
}

/// Status and body of what a role answers at a path.
///
/// # Errors
/// If nobody answers there in time, or not in HTTP.
pub(super) async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<(String, String)> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, get(address, path))
        .await
        .with_context(|| format!("ask {address}: no answer within {ANSWER_TIMEOUT:?}"))?
        .with_context(|| format!("ask {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("read the answer: it is not HTTP")?;
    Ok((head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned()))
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_role_is_asked_where_it_listens() {
        for (listen, expected) in [
            ("127.0.0.1:9187", "127.0.0.1:9187"),
            ("0.0.0.0:9187", "127.0.0.1:9187"),
            ("[::]:9187", "[::1]:9187"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            assert_eq!(address(listen).await.expect(listen).to_string(), expected);
        }
        for (listen, complaint) in [("", "serves no HTTP"), ("127.0.0.1:0", "any free port"), ("nonsense", "look up")] {
            let error = format!("{:#}", address(listen).await.expect_err(listen));
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[tokio::test]
    async fn what_a_role_misses_is_said() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nready\n", None),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\nKafka: down\nS3: down\n", Some("Kafka: down; S3: down")),
            ("SSH-2.0", Some("not HTTP")),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let listen = listener.local_addr().expect("an address").to_string();
            let serve = async {
                let (mut stream, _) = listener.accept().await.expect("asked");
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.expect("read");
                assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.expect("answer");
            };
            let (asked, ()) = tokio::join!(run(&listen), serve);
            match expected {
                None => asked.expect("ready"),
                Some(expected) => {
                    let error = format!("{:#}", asked.expect_err("not ready"));
                    assert!(error.contains(expected), "{error}");
                }
            }
        }
        let closed = run("127.0.0.1:1").await.expect_err("nobody listens there");
        assert!(format!("{closed:#}").contains("ask 127.0.0.1:1"), "{closed:#}");
    }
}
