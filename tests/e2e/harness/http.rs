//! Asking a role over HTTP, and a door that can be opened later.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Asks until there is an answer; bounded.
pub(crate) async fn within<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Status and body of a GET.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read the answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    let body = answer.split_once("\r\n\r\n").expect("a header").1;
    (status, body.to_owned())
}

/// An address that nobody answers on until it is opened.
pub(crate) struct Door {
    pub(crate) address: String,
}

impl Door {
    /// A free port.
    pub(crate) async fn new() -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Door { address: listener.local_addr().expect("an address").to_string() }
    }

    /// Lets everybody through to `target` from now on.
    pub(crate) async fn open(&self, target: &str) -> JoinHandle<()> {
        let listener = TcpListener::bind(&self.address).await.expect("the port is still free");
        let target = target.to_owned();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = target.clone();
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(&target).await else { return };
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
                });
            }
        })
    }
}
