//! The lives of the ledger, which distinguish rows that this ledger sent from rows of another.
//!
//! Postgres may go back in time while Kafka and S3 do not: restored from a backup, promoted without its last
//! transactions, or recreated while the topics are full. Then object ids and sequence numbers repeat for other files.
//! Two random numbers distinguish the rows:
//!
//! - an object's *nonce* is in the ledger and in the origin of each of its rows. A row counts only if both agree
//!   ([`judge`]); all others are *passed over*, that is, skipped: never applied, never in the progress, but counted;
//! - the *life*, the upper half of the nonce, changes when the ledger is found to have gone back. A passed-over row of
//!   the current life proves that: this ledger sent it but does not know it any more.
//!
//! The nonce's lower half separates the rows from the start; beginning a new life records the restore and has the
//! outputs derived again ([`begin`]). Files that the ledger has forgotten are found in S3 by the next listing, and are
//! published again under new numbers.

mod judge;
mod relation;
mod sift;

use sqlx::{PgConnection, PgPool};

use crate::advisory;
use crate::apply::marks;
use crate::transactions::{self, Limits};
use freshet_topics::Domain;

pub use judge::{Entry, Verdict, judge, life_of};
pub use relation::{Relation, relation};
pub(crate) use sift::{Sifted, sift};

/// Why a life began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A processor found rows that the ledger had forgotten.
    Restored,
    /// An operator said that the database was restored.
    ByHand,
}

impl Why {
    /// As `pipeline.lives.why` spells it.
    fn name(self) -> &'static str {
        match self {
            Why::Restored => "restored",
            Why::ByHand => "by hand",
        }
    }
}

/// A life of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Life {
    /// 1, 2, 3, …; the highest is the current one.
    pub number: i32,
    /// The upper half of the nonces of the objects registered in it.
    pub nonce: i64,
}

/// A life's nonce as written in object nonces and manifests: 16 hexadecimal digits.
pub fn spelled(nonce: i64) -> String {
    format!("{:016x}", nonce.cast_unsigned())
}

/// The lives, oldest first.
///
/// # Errors
/// If Postgres does not answer, or was not migrated.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<Life>, sqlx::Error> {
    sqlx::query_as("SELECT number, nonce FROM pipeline.lives ORDER BY number").fetch_all(connection).await
}

/// How far the ledger has come, at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Extent {
    /// The nonce of the current life.
    pub life: i64,
    /// The highest object id; 0 if there is no object.
    pub newest_object: i64,
}

impl Extent {
    /// Whether the ledger went back in time between a look and this one: then it has forgotten objects that somebody may
    /// believe to be in it.
    ///
    /// | life | highest id | went back |
    /// |---|---|---|
    /// | the same | the same or higher | no |
    /// | the same | lower | yes |
    /// | another | – | yes |
    pub fn went_back_since(self, before: Extent) -> bool {
        before.life != self.life || self.newest_object < before.newest_object
    }
}

/// How far the ledger has come.
///
/// # Errors
/// If Postgres does not answer.
pub async fn extent(pool: &PgPool) -> Result<Extent, sqlx::Error> {
    sqlx::query_as(
        "SELECT (SELECT nonce FROM pipeline.lives ORDER BY number DESC LIMIT 1) AS life,
            coalesce((SELECT max(id) FROM pipeline.objects), 0) AS newest_object",
    )
    .fetch_one(pool)
    .await
}

/// Begins a new life as part of a transaction, unless the current one is not `current` any more: then another process
/// has noticed the same restore. Raises the epochs of all streams, and marks every window of these domains that has
/// rows: outputs of another life are always derived again, and the marks show that this is still to be done. Returns
/// the new life's number.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn begin_if(
    connection: &mut PgConnection,
    domains: &[&'static Domain],
    current: i64,
    why: Why,
    evidence: &str,
) -> Result<Option<i32>, sqlx::Error> {
    // Two processes that notice the same restore begin only one life.
    sqlx::query(advisory::LIVES).execute(&mut *connection).await?;
    let began: Option<i32> = sqlx::query_scalar(
        "INSERT INTO pipeline.lives (number, nonce, why, evidence)
         SELECT l.number + 1, pipeline.new_life_nonce(), $2, $3
         FROM (SELECT number, nonce FROM pipeline.lives ORDER BY number DESC LIMIT 1) AS l
         WHERE l.nonce = $1
         RETURNING number",
    )
    .bind(current)
    .bind(why.name())
    .bind(evidence)
    .fetch_optional(&mut *connection)
    .await?;
    if began.is_some() {
        // The tables before the streams: a swap of a shadow locks them in this order too.
        for domain in domains {
            marks::mark_everything(connection, domain, &[crate::destination::Destination::Live.table(domain)]).await?;
        }
        sqlx::query("UPDATE pipeline.streams SET epoch = epoch + 1").execute(connection).await?;
    }
    Ok(began)
}

/// Begins a new life because an operator says that the database was restored, in one transaction. Returns its number.
///
/// # Errors
/// If Postgres does not answer. Nothing has changed then.
pub async fn begin(pool: &PgPool, domains: &[&'static Domain]) -> Result<i32, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "begin_life", Limits::SHORT).await?;
    sqlx::query(advisory::LIVES).execute(&mut *transaction).await?;
    let lives = all(&mut transaction).await?;
    let current = lives.last().ok_or(sqlx::Error::RowNotFound)?.nonce;
    let began = begin_if(&mut transaction, domains, current, Why::ByHand, "`freshet restored`").await?;
    transaction.commit().await?;
    began.ok_or(sqlx::Error::RowNotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_lost_objects_or_began_a_new_life_went_back() {
        let before = Extent { life: 7, newest_object: 5 };
        for (life, newest_object, expected) in [(7, 5, false), (7, 6, false), (7, 4, true), (8, 5, true), (8, 9, true)]
        {
            let now = Extent { life, newest_object };
            assert_eq!(now.went_back_since(before), expected, "{now:?}");
        }
    }
}
