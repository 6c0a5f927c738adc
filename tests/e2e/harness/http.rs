//! Asking a role over HTTP, a door that can be opened later, and a collector of traces.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
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

/// Takes the traces that roles send by OTLP over HTTP.
pub(crate) struct Collector {
    pub(crate) address: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    pub(crate) async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let taken = Arc::clone(&spans);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(take(client, Arc::clone(&taken)));
            }
        });
        Collector { address, spans }
    }

    /// All that has come.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("not poisoned").clone()
    }
}

/// Reads the requests of one connection, which all have a length, until it ends.
async fn take(mut client: TcpStream, spans: Arc<Mutex<Vec<Span>>>) {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            match client.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let header = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        assert!(header.starts_with("post /v1/traces "), "{header}");
        let length = header.lines().find_map(|line| line.strip_prefix("content-length:")).expect("a length");
        let length: usize = length.trim().parse().expect("a number");
        while bytes.len() < head + length {
            assert!(client.read_buf(&mut bytes).await.expect("the rest") > 0, "cut short");
        }
        let request = ExportTraceServiceRequest::decode(&bytes[head..head + length]).expect("a request");
        let told = request.resource_spans.into_iter().flat_map(|it| it.scope_spans).flat_map(|it| it.spans);
        spans.lock().expect("not poisoned").extend(told);
        bytes.drain(..head + length);
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok();
    }
}
