//! freshet among services that let in only whom they know: Kafka with TLS, logins and permissions, Postgres with TLS,
//! HTTP with a token; and no secret in anything that it writes.
//!
//! The certificates are made here. What `docs/deploy.md` tells to write (settings, SQL, ACLs, IAM policies) is taken from
//! there, and used.

mod broker;
mod canary;
mod certificates;
mod deploy;
mod flow;
mod http;
mod logins;
#[path = "../deploy/parts.rs"]
#[allow(dead_code)]
mod parts;
mod postgres;
mod settings;
