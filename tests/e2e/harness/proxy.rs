//! A proxy before S3 that answers some requests itself, as an ingress or a gateway in trouble does.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// The status that a request is answered with; `None` lets it through.
type Rule = Box<dyn Fn(&Method, &Uri) -> Option<StatusCode> + Send>;

/// A proxy; all go through it until it is told otherwise.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    target: String,
    client: Client<HttpConnector, Body>,
    /// The rule, and how often it has answered.
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
        *self.rule.lock().expect("not poisoned") = (Some(Box::new(rule)), 0);
    }

    /// Lets everything through again; gives how many requests were not.
    pub(crate) fn recover(&self) -> u64 {
        std::mem::take(&mut *self.rule.lock().expect("not poisoned")).1
    }

    fn answer_to(&self, request: &Request) -> Option<StatusCode> {
        let mut rule = self.rule.lock().expect("not poisoned");
        let status = rule.0.as_ref()?(request.method(), request.uri())?;
        rule.1 += 1;
        Some(status)
    }
}

/// The signature covers the host that the client named, which is passed on as it is.
async fn pass(State(proxy): State<Proxy>, mut request: Request) -> Response {
    if let Some(status) = proxy.answer_to(&request) {
        return status.into_response();
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("{}{path}", proxy.target).parse().expect("a URI");
    match proxy.client.request(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
