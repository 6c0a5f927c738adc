//! A proxy before S3 that does to requests what an ingress, a gateway or a store in trouble does.

use std::fmt::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::Client as S3;
use aws_sdk_s3::primitives::DateTimeFormat as Format;
use aws_sdk_s3::types::EncodingType;
use axum::Router;
use axum::body::{self, Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use freshet::config::Config;
use freshet_sinks::s3;
use futures::stream;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode_str;

use super::World;

/// Changes an answer's headers, and gives its body.
type Edit = Arc<dyn Fn(&mut HeaderMap, Vec<u8>) -> Vec<u8> + Send + Sync>;

/// What becomes of a request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// S3 does not see it: answered with that status, and with this body where there is one.
    Answer(StatusCode, &'static str),
    /// S3 does not see it, and no answer comes: the connection breaks.
    Lost,
    /// S3 does it, and its answer does not come: the connection breaks.
    AnswerLost,
    /// S3 does it, and something on the way says that status instead.
    AnswerReplaced(StatusCode),
    /// Of the answer's body only so many bytes come, then the connection breaks.
    Cut(usize),
    /// Of the answer's body only so many bytes come, and a proper end, as of a smaller object.
    Shortened(usize),
    /// It is passed on after so long.
    Late(Duration),
    /// A listing whose pages have at most so many keys, asked for by this client.
    Paged(S3, i32),
    /// There is an object of this content and ETag, whatever S3 says.
    Object(Bytes, String),
    /// The answer's headers and body are changed on their way.
    Edited(Edit),
}

/// When the objects were written that are there only for the proxy; its listing says the same.
const MADE_UP_TIME: &str = "Wed, 01 Jan 2025 00:00:00 GMT";

/// What becomes of a request; `None` lets it through. Asked in the order in which requests come.
type Rule = Box<dyn Fn(&Request) -> Option<Fault> + Send>;

impl World {
    /// A world whose S3 is behind a proxy.
    pub(crate) async fn behind_a_proxy(story: &str, change: impl FnOnce(&mut Config)) -> (World, Proxy) {
        let mut proxy = None;
        let world = World::with(story, |config| {
            let made = Proxy::before(&config.s3.endpoint);
            config.s3.endpoint.clone_from(&made.endpoint);
            proxy = Some(made);
            change(config);
        })
        .await;
        (world, proxy.expect("made with the world"))
    }
}

/// What a request is, in one word.
pub(crate) fn kind(request: &Request) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    match (request.method().as_str(), query) {
        ("GET", query) if query.contains("list-type=2") => "list",
        ("GET", _) => "get",
        ("HEAD", _) => "head",
        ("PUT", _) => "put",
        ("DELETE", _) => "delete",
        ("POST", query) if query.contains("delete") => "delete",
        _ => "other",
    }
}

/// A proxy; all go through it until it is told otherwise.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    target: String,
    client: Client<HttpConnector, Body>,
    /// The rule, and how often it has applied.
    rule: Arc<Mutex<(Option<Rule>, u64)>>,
}

impl Proxy {
    /// Starts one before the server at `target`, `http://HOST:PORT`.
    pub(crate) fn before(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket for tokio");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket for tokio");
        let proxy = Proxy {
            endpoint: format!("http://{}", listener.local_addr().expect("an address")),
            target: target.trim_end_matches('/').to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            rule: Arc::default(),
        };
        let app = Router::new().fallback(pass).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        proxy
    }

    /// Answers by this rule from now on: a status and an empty page, with no code of S3.
    pub(crate) fn answer(&self, rule: impl Fn(&Method, &Uri) -> Option<StatusCode> + Send + 'static) {
        self.break_by(move |request| Some(Fault::Answer(rule(request.method(), request.uri())?, "")));
    }

    /// Does this to requests from now on.
    pub(crate) fn break_by(&self, rule: impl Fn(&Request) -> Option<Fault> + Send + 'static) {
        *self.rule.lock().expect("not poisoned") = (Some(Box::new(rule)), 0);
    }

    /// Lets everything through again; gives how many requests were not.
    pub(crate) fn recover(&self) -> u64 {
        std::mem::take(&mut *self.rule.lock().expect("not poisoned")).1
    }

    /// A client that does not go through it.
    pub(crate) async fn around(&self, world: &World) -> S3 {
        let mut settings = world.services.config.s3.clone();
        settings.endpoint.clone_from(&self.target);
        s3::client(&settings).await
    }

    /// How many requests the rule has applied to so far.
    pub(crate) fn broken(&self) -> u64 {
        self.rule.lock().expect("not poisoned").1
    }

    fn fault_of(&self, request: &Request) -> Option<Fault> {
        let mut rule = self.rule.lock().expect("not poisoned");
        let fault = rule.0.as_ref()?(request)?;
        rule.1 += 1;
        Some(fault)
    }

    /// The signature covers the host that the client named, which is passed on as it is.
    async fn forward(&self, mut request: Request) -> Response {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("{}{path}", self.target).parse().expect("a URI");
        match self.client.request(request).await {
            Ok(response) => response.map(Body::new),
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    /// The answer, and its whole body.
    async fn fetched(&self, request: Request) -> (axum::http::response::Parts, Vec<u8>) {
        let (parts, body) = self.forward(request).await.into_parts();
        (parts, body::to_bytes(body, usize::MAX).await.map(Bytes::into).unwrap_or_default())
    }

    /// The signature covers the size of the page, too, so that it takes a client to ask for another.
    async fn page(client: S3, keys_max: i32, request: Request) -> Response {
        let query = request.uri().query().unwrap_or_default();
        let value = |name: &str| {
            let found = query.split('&').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
            found.map(|it| percent_decode_str(it).decode_utf8().expect("UTF-8").into_owned())
        };
        let bucket = request.uri().path().trim_matches('/').to_owned();
        let list = client.list_objects_v2().bucket(&bucket).max_keys(keys_max).encoding_type(EncodingType::Url);
        let list = list.set_prefix(value("prefix")).set_continuation_token(value("continuation-token"));
        let Ok(page) = list.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
        let mut xml = format!("<ListBucketResult><Name>{bucket}</Name><EncodingType>url</EncodingType>");
        if let Some(token) = page.next_continuation_token() {
            let token = token.replace('&', "&amp;").replace('<', "&lt;");
            _ = write!(xml, "<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>");
        }
        for object in page.contents() {
            // Escaped as in a URL, as S3 gave it.
            let key = object.key().expect("a key");
            let (etag, size) = (object.e_tag().expect("an ETag"), object.size().expect("a size"));
            let modified = object.last_modified().expect("a time").fmt(Format::DateTime).expect("a time");
            _ = write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag>\
                 <Size>{size}</Size></Contents>"
            );
        }
        (StatusCode::OK, xml + "</ListBucketResult>").into_response()
    }
}

async fn pass(State(proxy): State<Proxy>, request: Request) -> Response {
    match proxy.fault_of(&request) {
        None => proxy.forward(request).await,
        Some(Fault::Answer(status, body)) => (status, body).into_response(),
        Some(Fault::Lost) => broken(Response::builder(), &[]),
        Some(Fault::AnswerLost) => {
            proxy.fetched(request).await;
            broken(Response::builder(), &[])
        }
        Some(Fault::AnswerReplaced(status)) => {
            proxy.fetched(request).await;
            status.into_response()
        }
        Some(Fault::Cut(bytes)) => {
            let (parts, body) = proxy.fetched(request).await;
            let mut response = Response::builder().status(parts.status);
            response.headers_mut().expect("valid so far").extend(parts.headers);
            broken(response, &body[..bytes.min(body.len())])
        }
        Some(Fault::Shortened(bytes)) => {
            let (mut parts, mut body) = proxy.fetched(request).await;
            body.truncate(bytes);
            parts.headers.remove(CONTENT_LENGTH);
            Response::from_parts(parts, body.into())
        }
        Some(Fault::Late(pause)) => {
            tokio::time::sleep(pause).await;
            proxy.forward(request).await
        }
        Some(Fault::Paged(client, keys_max)) => Proxy::page(client, keys_max, request).await,
        Some(Fault::Object(content, etag)) => {
            let response = Response::builder().header("etag", etag).header("last-modified", MADE_UP_TIME);
            let response = response.header(CONTENT_LENGTH, content.len());
            // HEAD has no body: hyper sees to that.
            response.body(content.into()).expect("an answer")
        }
        Some(Fault::Edited(edit)) => {
            let is_head = request.method() == Method::HEAD;
            let (mut parts, body) = proxy.fetched(request).await;
            let body = edit(&mut parts.headers, body);
            // The length that HEAD tells is that of the object.
            if !is_head {
                parts.headers.remove(CONTENT_LENGTH);
            }
            Response::from_parts(parts, body.into())
        }
    }
}

/// An answer of these bytes that never comes to its end: the server closes the connection.
fn broken(response: axum::http::response::Builder, bytes: &[u8]) -> Response {
    let pieces = [Ok(Bytes::copy_from_slice(bytes)), Err(std::io::Error::other("cut off"))];
    let body = Body::from_stream(stream::iter(pieces));
    // Without a length of its own it would be one that ends with the connection.
    let response = match response.headers_ref().is_some_and(|it| it.contains_key(CONTENT_LENGTH)) {
        true => response,
        false => response.header(CONTENT_LENGTH, bytes.len() + 1_000),
    };
    response.body(body).expect("an answer")
}
