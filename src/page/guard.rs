//! Which requests are answered, and what a browser may do with the answers.
//!
//! A web page elsewhere cannot read another's answers, unless it makes its own name resolve to this machine (DNS
//! rebinding): the browser then takes us for that page's server. Such a request names that server in `Host`. So
//! only hosts that nobody else can make resolve to us are answered: addresses, `localhost`, and the one listened on.
//! Where there is a token, a browser has to have been given it at that very host, and any is answered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, no inline script or style, no frame around it. Trusted types: not even a mistake of the
/// page's own script can make markup of a text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of every answer. The files are those of the running program: none is kept for another one.
const HEADERS: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

#[derive(Debug, Clone)]
pub(super) struct Hosts {
    /// The host of `http.listen`.
    listen: Arc<str>,
    /// Whether a token is asked for before.
    any: bool,
}

impl Hosts {
    /// For a server that listens on `host:port`, and asks for `token` unless that is empty.
    pub(super) fn of(listen: &str, token: &str) -> Hosts {
        let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
        Hosts { listen: host.into(), any: !token.is_empty() }
    }

    /// Whether a request with these headers is meant for us.
    ///
    /// | Host | listening on 127.0.0.1:9187 | with a token |
    /// |---|---|---|
    /// | `localhost:9187`, `127.0.0.1:9187`, `[::1]:9187`, `192.0.2.7` | yes | yes |
    /// | `elsewhere.example:9187`, `localhost.elsewhere.example` | no | yes |
    /// | none, or two | no | yes |
    fn answers(&self, headers: &HeaderMap) -> bool {
        if self.any {
            return true;
        }
        let mut named = headers.get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else { return false };
        let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok() || host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(&self.listen)
    }
}

/// Answers whoever asks for this machine by a name of its own.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match hosts.answers(request.headers()) {
        true => next.run(request).await,
        false => {
            let reason =
                "open this page as localhost or by IP address: another host name could be an attack by a web page\n";
            (StatusCode::FORBIDDEN, reason).into_response()
        }
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(listen: &str, hosts: &[&str]) -> bool {
        answers_with("", listen, hosts)
    }

    fn answers_with(token: &str, listen: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).expect("a header"));
        }
        Hosts::of(listen, token).answers(&headers)
    }

    #[test]
    fn a_name_that_others_can_point_at_this_machine_is_not_answered() {
        for host in ["localhost:9187", "LOCALHOST", "127.0.0.1:9187", "127.0.0.1", "[::1]:9187", "192.0.2.7:80"] {
            assert!(answers("127.0.0.1:9187", &[host]), "{host}");
        }
        for host in [
            "elsewhere.example:9187",
            "localhost.elsewhere.example",
            "127.0.0.1.elsewhere.example",
            "freshet",
            "localhost@elsewhere.example",
            "",
            " ",
        ] {
            assert!(!answers("127.0.0.1:9187", &[host]), "{host:?}");
        }
        assert!(!answers("127.0.0.1:9187", &[]));
        assert!(!answers("127.0.0.1:9187", &["localhost", "elsewhere.example"]));
        assert!(answers("freshet.internal:80", &["freshet.internal"]));
        assert!(!answers("freshet.internal:80", &["elsewhere.example"]));
        assert!(!answers("", &["elsewhere.example"]));
        assert!(answers("[::]:9187", &["[2001:db8::7]:9187"]));
        // Behind a proxy with a name, say.
        assert!(answers_with("a-token-of-some-length", "127.0.0.1:9187", &["freshet.example"]));
    }
}
