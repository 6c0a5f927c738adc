//! Which topic the ledger and the bookmarks of a domain belong to: one stream for each topic.

use sqlx::PgPool;
use uuid::Uuid;

/// Whether a topic is the one that the bookmarks were made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// It is; or the domain had no topic before and is now bound to this one.
    Same(Uuid),
    /// The topic was deleted and recreated, or Kafka was lost: nothing may be published or applied before
    /// `freshet bookmarks adopt`.
    Other {
        /// The stream that the bookmarks belong to.
        known: Uuid,
        /// The stream in the topic.
        found: Uuid,
    },
    /// Neither Postgres nor the topic knows a stream id.
    Unknown,
}

/// Binds a domain to its topic the first time, and compares from then on. If two bind at once, both read the stream
/// that was inserted first. `found` is the stream id in the topic, `None` if no stream record is left.
///
/// # Errors
/// If Postgres does not answer.
pub async fn bind(pool: &PgPool, domain: &str, topic: &str, found: Option<Uuid>) -> Result<Binding, sqlx::Error> {
    if let Some(found) = found {
        sqlx::query(
            "INSERT INTO pipeline.streams (domain, topic, stream_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(domain)
        .bind(topic)
        .bind(found)
        .execute(pool)
        .await?;
    }
    Ok(compare(known(pool, domain).await?, found))
}

/// The stream that the domain's bookmarks belong to; `None` if no topic was bound yet.
///
/// # Errors
/// If Postgres does not answer.
pub async fn known(pool: &PgPool, domain: &str) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("SELECT stream_id FROM pipeline.streams WHERE domain = $1")
        .bind(domain)
        .fetch_optional(pool)
        .await
}

/// The decision of [`bind`], from the stream that Postgres knows and the one in the topic.
///
/// | known to Postgres | the topic says | binding |
/// |---|---|---|
/// | a | a | same a |
/// | a | b | other |
/// | a | no stream record is left | same a |
/// | – | no stream record is left | unknown |
pub fn compare(known: Option<Uuid>, found: Option<Uuid>) -> Binding {
    match (known, found) {
        (Some(known), Some(found)) if known != found => Binding::Other { known, found },
        (Some(known), _) => Binding::Same(known),
        (None, _) => Binding::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_made_again_is_another() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(compare(Some(a), Some(a)), Binding::Same(a));
        assert_eq!(compare(Some(a), Some(b)), Binding::Other { known: a, found: b });
        assert_eq!(compare(Some(a), None), Binding::Same(a));
        assert_eq!(compare(None, None), Binding::Unknown);
    }
}
