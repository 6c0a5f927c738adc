//! Who may request what over HTTP.
//!
//! | path | with a token set | without, on loopback | without, beyond loopback |
//! |---|---|---|---|
//! | `/healthz`, `/readyz` | open | open | open |
//! | `/metrics` | token | open | open |
//! | `/s3-events` | token | refused | refused |
//! | any other | token | open | refused |
//!
//! The token comes as `Authorization: Bearer …`. A browser that opens `/?token=…` is given a cookie and sent on to the
//! address without it; the cookie holds for reading only, so that no other site can make a browser change anything. It is
//! sent along where somebody follows a link from elsewhere, and not where a site elsewhere asks by itself. The one thing that
//! is changed with it are files dropped on the page ([`UPLOADS`]), and only from the page itself: see [`is_from_own_page`].

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// Where notifications come in.
pub(crate) const EVENTS: &str = "/s3-events";
/// Where files that are dropped on the page come in.
pub(crate) const UPLOADS: &str = "/page/uploads";
/// The header that the page marks its own requests with. A page elsewhere cannot send one without asking first.
const MARK: &str = "x-freshet-page";
const COOKIE_NAME: &str = "freshet";

/// The access rules that follow from the settings and the address. It holds hashes, never a token.
#[derive(Clone)]
pub(super) struct Guard {
    token: Option<Digested>,
    beyond_loopback: bool,
}

#[derive(Clone)]
struct Digested {
    token: [u8; 32],
    /// What the cookie holds: whoever sees it has not seen the token.
    cookie: String,
}

/// The verdict on a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The token in the address was right: a cookie, and the address without it.
    SendTo(String),
    /// The token is missing or wrong.
    WantsToken,
    /// No token is set that would allow this.
    Shut,
}

impl Guard {
    /// `token` empty: none.
    pub(super) fn new(token: &str, listens_on: IpAddr) -> Self {
        let digested = || Digested {
            token: Sha256::digest(token).into(),
            cookie: hex(&Sha256::digest(format!("freshet cookie {token}"))),
        };
        Guard { token: (!token.is_empty()).then(digested), beyond_loopback: !listens_on.is_loopback() }
    }

    /// What is to be told when it starts to listen, if anything.
    pub(super) fn warning(&self) -> Option<&'static str> {
        (self.token.is_none() && self.beyond_loopback).then_some(
            "http.listen is open beyond this machine and http.token is not set: only /healthz, /readyz and /metrics \
             are answered",
        )
    }

    fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let path = uri.path();
        if matches!(path, "/healthz" | "/readyz") {
            return Verdict::Pass;
        }
        let Some(digested) = &self.token else {
            let open = path != EVENTS && (!self.beyond_loopback || path == "/metrics");
            return if open { Verdict::Pass } else { Verdict::Shut };
        };
        let login = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        if login.is_some_and(|(scheme, shown)| scheme.eq_ignore_ascii_case("bearer") && digested.is(shown)) {
            return Verdict::Pass;
        }
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let is_upload = *method == Method::POST && path == UPLOADS && is_from_own_page(headers);
        if !is_read && !is_upload {
            return Verdict::WantsToken;
        }
        let (shown, rest) = without_token(uri);
        if is_read && shown.is_some_and(|shown| digested.is(shown)) {
            return Verdict::SendTo(rest);
        }
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies = cookies.flat_map(|line| line.split("; ").filter_map(|one| one.split_once('=')));
        match cookies.any(|(name, value)| name == COOKIE_NAME && digested.is_cookie(value)) {
            true => Verdict::Pass,
            false => Verdict::WantsToken,
        }
    }
}

impl Digested {
    /// What is compared are hashes: how long that takes tells nothing of the token.
    fn is(&self, shown: &str) -> bool {
        <[u8; 32]>::from(Sha256::digest(shown)) == self.token
    }

    fn is_cookie(&self, shown: &str) -> bool {
        Sha256::digest(shown) == Sha256::digest(&self.cookie)
    }
}

/// Whether the page that is served here has sent a request, and no page elsewhere.
///
/// | [`MARK`] | `Origin` | `Host` | |
/// |---|---|---|---|
/// | there | `http://localhost:9187` | `localhost:9187` | yes |
/// | there | `https://freshet.example` | `freshet.example` | yes |
/// | there | `https://elsewhere.example` | `freshet.example` | no |
/// | there | none, `null`, or two | any | no |
/// | none | any | any | no |
pub(crate) fn is_from_own_page(headers: &HeaderMap) -> bool {
    let only = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    let origin = only(ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    headers.contains_key(MARK) && origin.is_some_and(|origin| Some(origin) == only(HOST))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The token that an address holds, and the address without it. Tokens are ASCII that needs no escapes, mostly; one
/// that does is sent in the header.
fn without_token(uri: &Uri) -> (Option<&str>, String) {
    let parts = || uri.query().unwrap_or_default().split('&');
    let token = parts().find_map(|part| part.strip_prefix("token="));
    let rest: Vec<&str> = parts().filter(|part| !part.is_empty() && !part.starts_with("token=")).collect();
    // Two slashes at its beginning would be another host.
    let path = format!("/{}", uri.path().trim_start_matches('/'));
    (token, if rest.is_empty() { path } else { format!("{path}?{}", rest.join("&")) })
}

/// The layer around all that is served.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.judge(request.method(), request.uri(), request.headers()) {
        Verdict::Pass => next.run(request).await,
        Verdict::SendTo(address) => {
            let value = guard.token.as_ref().map_or("", |digested| &digested.cookie);
            let cookie = format!("{COOKIE_NAME}={value}; Path=/; HttpOnly; SameSite=Lax");
            (StatusCode::SEE_OTHER, [(SET_COOKIE, cookie), (LOCATION, address)]).into_response()
        }
        Verdict::WantsToken => {
            let said = "this needs http.token: send it as `Authorization: Bearer …`, or open /?token=… in a browser\n";
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], said).into_response()
        }
        Verdict::Shut => (StatusCode::FORBIDDEN, "this is disabled until http.token is set\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn judged(guard: &Guard, method: Method, uri: &str, header: Option<(&'static str, String)>) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().expect("a header"));
        }
        guard.judge(&method, &uri.parse().expect("an address"), &headers)
    }

    #[test]
    fn each_path_is_open_to_whom_the_table_says() {
        let (here, beyond): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [0, 0, 0, 0].into());
        let guards = [Guard::new(TOKEN, here), Guard::new(TOKEN, beyond), Guard::new("", here), Guard::new("", beyond)];
        use Verdict::{Pass, Shut, WantsToken};
        let cases: [(Method, &str, [Verdict; 4]); 6] = [
            (Method::GET, "/healthz", [Pass, Pass, Pass, Pass]),
            (Method::GET, "/readyz", [Pass, Pass, Pass, Pass]),
            (Method::GET, "/metrics", [WantsToken, WantsToken, Pass, Pass]),
            (Method::POST, "/s3-events", [WantsToken, WantsToken, Shut, Shut]),
            (Method::GET, "/", [WantsToken, WantsToken, Pass, Shut]),
            (Method::GET, "/healthz/../", [WantsToken, WantsToken, Pass, Shut]),
        ];
        for (method, path, expected) in cases {
            for (guard, expected) in guards.iter().zip(expected) {
                assert_eq!(judged(guard, method.clone(), path, None), expected, "{method} {path}");
                if guard.token.is_some() {
                    let right = Some(("authorization", format!("Bearer {TOKEN}")));
                    assert_eq!(judged(guard, method.clone(), path, right), Pass, "{method} {path}");
                }
            }
        }
        let told: Vec<bool> = guards.iter().map(|guard| guard.warning().is_some()).collect();
        assert_eq!(told, [false, false, false, true]);
    }

    #[test]
    fn a_cookie_brings_files_from_the_page_itself_and_nothing_from_elsewhere() {
        let guard = Guard::new(TOKEN, [0, 0, 0, 0].into());
        let cookie = guard.token.as_ref().expect("a token").cookie.clone();
        let judged = |path: &str, given: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", format!("freshet={cookie}").parse().expect("a header"));
            for (name, value) in given {
                headers.append(*name, value.parse().expect("a header"));
            }
            guard.judge(&Method::POST, &path.parse().expect("an address"), &headers)
        };
        let (mark, host) = ((MARK, "1"), ("host", "freshet.example"));
        let (own, other) = (("origin", "https://freshet.example"), ("origin", "https://elsewhere.example"));
        let address = format!("{UPLOADS}?domain=a&name=b.csv");
        assert_eq!(judged(&address, &[mark, host, own]), Verdict::Pass);
        for wrong in [
            &[mark, host, other][..],
            &[host, own],
            &[mark, own],
            &[mark, host],
            &[mark, host, own, other],
            &[mark, host, ("origin", "null")],
            &[mark, host, ("origin", "https://freshet.example.elsewhere.example")],
        ] {
            assert_eq!(judged(&address, wrong), Verdict::WantsToken, "{wrong:?}");
        }
        assert_eq!(judged(EVENTS, &[mark, host, own]), Verdict::WantsToken);
        assert_eq!(judged(&format!("{UPLOADS}/x"), &[mark, host, own]), Verdict::WantsToken);
    }

    #[test]
    fn only_the_whole_token_opens() {
        let guard = Guard::new(TOKEN, [127, 0, 0, 1].into());
        // The name of the scheme may be written in any case.
        for scheme in ["bearer", "BEARER"] {
            let header = Some(("authorization", format!("{scheme} {TOKEN}")));
            assert_eq!(judged(&guard, Method::GET, "/", header), Verdict::Pass, "{scheme}");
        }
        let basic = format!("Basic {TOKEN}");
        let wrongs = ["", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "bearer", "Basic x", TOKEN];
        for wrong in wrongs.into_iter().chain([basic.as_str()]) {
            let header = Some(("authorization", wrong.to_owned()));
            assert_eq!(judged(&guard, Method::GET, "/", header), Verdict::WantsToken, "{wrong}");
        }
    }

    #[test]
    fn a_browser_is_let_in_by_address_once_and_reads_with_its_cookie() {
        let guard = Guard::new(TOKEN, [0, 0, 0, 0].into());
        for (uri, expected) in [
            (format!("/?token={TOKEN}"), "/"),
            (format!("/a/b?x=1&token={TOKEN}&y=2"), "/a/b?x=1&y=2"),
            (format!("//evil.example/?token={TOKEN}"), "/evil.example/"),
        ] {
            assert_eq!(judged(&guard, Method::GET, &uri, None), Verdict::SendTo(expected.into()), "{uri}");
            assert_eq!(judged(&guard, Method::POST, &uri, None), Verdict::WantsToken, "{uri}");
        }
        assert_eq!(judged(&guard, Method::GET, "/?token=0123456789abcdeg", None), Verdict::WantsToken);
        let cookie = guard.token.as_ref().expect("a token").cookie.clone();
        assert!(!cookie.contains(TOKEN));
        let with = |value: &str| Some(("cookie", format!("other=1; freshet={value}")));
        assert_eq!(judged(&guard, Method::GET, "/", with(&cookie)), Verdict::Pass);
        assert_eq!(judged(&guard, Method::POST, EVENTS, with(&cookie)), Verdict::WantsToken);
        assert_eq!(judged(&guard, Method::GET, "/", with(TOKEN)), Verdict::WantsToken);
    }
}
