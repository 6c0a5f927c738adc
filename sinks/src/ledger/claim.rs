//! Claiming: a listener takes the next object of its domains, or several small ones at once, and keeps them as long as
//! it renews its leases.

use std::time::Duration;

use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::object::{COLUMNS, Object};
use super::reason::Reason;
use super::state::ObjectState;
use super::transition::{Change, Event, transition};
use super::write::{milliseconds, save};
use crate::backoff::Backoff;
use crate::transactions::{self, Limits};

/// A version that failed this many times in a row no longer holds back newer versions of its key.
pub const ATTEMPTS_HOLDING_BACK: i32 = 5;

/// The objects that [`may_claim`] allows.
///
/// Nobody has waited for an object before it was found. So the interval of one that was never claimed has a beginning
/// too, and a clock that goes back to before that ends it.
///
/// `OFFSET 0` makes Postgres look up the older versions of a key by that key. Otherwise, by a plan from when there were few
/// objects, it would look them up by domain or state, and read all objects for each waiting object.
const FREE: &str = "pipeline.objects o, (SELECT clock_timestamp() AS now) AS t
                WHERE o.state IN ('discovered', 'publishing')
                  AND (o.state = 'discovered' OR o.lease_until IS NULL
                      OR t.now NOT BETWEEN coalesce(o.lease_from, o.discovered_at) AND o.lease_until)
                  AND t.now NOT BETWEEN coalesce(o.wait_from, o.discovered_at) AND o.next_attempt_at
                  AND NOT EXISTS (
                      SELECT FROM (
                          SELECT e.domain, e.state, e.attempts FROM pipeline.objects e
                          WHERE e.bucket = o.bucket AND e.key = o.key AND e.src_ord < o.src_ord OFFSET 0
                      ) AS e
                      WHERE e.domain = o.domain AND e.state IN ('discovered', 'publishing') AND e.attempts < $3)";
/// The waiting objects are read in the order of their index, and only as many as are taken. A session may keep a plan from
/// when there were few objects, which reads all that wait and sorts them.
///
/// What is found is sorted all the same, at a cost that Postgres then takes for enormous: it would compile the statement
/// for a second or two, at each claim. Sessions ask for no `jit` themselves, but a pooler may drop that.
const IN_ORDER: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off";
/// Objects that may be taken together.
const IS_SMALL: &str = "(o.state = 'discovered' AND o.attempts = 0 AND o.resume_row = 0 AND o.size_bytes <= $5)";

/// An object that a listener holds the lease on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The object, in the state `publishing`.
    pub object: Object,
    /// How its rows are numbered, frozen with the generation.
    pub numbering: Numbering,
    /// The newest older version of its key in its domain.
    pub earlier: Option<Earlier>,
    /// Rows of its newest generation that the processors have received.
    pub received: i64,
}

/// How a listener reads the bytes of a file as numbered rows. It is frozen with a generation: sequence numbers and resume
/// points mean nothing under another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Numbering {
    /// See [`freshet_topics::PARSER_VERSION`].
    pub parser_version: i32,
    /// The partitions of the topic.
    pub partitions: i32,
    /// The number of the rules of contract and settings by which files are read.
    pub reading_rules: i64,
}

/// A domain that may be published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenDomain<'a> {
    /// Its name.
    pub name: &'a str,
    /// How the rows of its files are numbered now.
    pub numbering: Numbering,
    /// The `src_ord` of the object with failed attempts that was tried last, of the new ones and of those that are sent
    /// again. If [`Take::failed`], the next one is looked for behind it, and then from the first one on.
    pub tried: [i64; 2],
}

impl OpenDomain<'_> {
    /// No object with failed attempts was tried: [`OpenDomain::tried`].
    pub const NONE_TRIED: [i64; 2] = [i64::MIN; 2];
}

/// An older version of a key in the same domain. One of another domain (the key was that domain's before) says nothing:
/// its rows are in another table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Earlier {
    /// Its number.
    pub id: i64,
    /// Its state.
    pub state: ObjectState,
    /// The hash of its content, if it was read.
    pub sha256: Option<Vec<u8>>,
    /// The rules that it was read by, if they are known.
    pub reading_rules: Option<i64>,
    /// Why it is in its state.
    pub reason: Option<Reason>,
}

/// The claiming listener and its terms.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'a> {
    /// The listener's name, unique among those that run.
    pub owner: &'a str,
    /// How long it keeps an object without renewing.
    pub lease: Duration,
    /// How long an object is left alone after its listener went silent, by the number of failures in a row.
    pub back_off: Backoff,
}

#[derive(sqlx::FromRow)]
struct Found {
    #[sqlx(flatten)]
    object: Object,
    received: i64,
    earlier_id: Option<i64>,
    earlier_state: Option<ObjectState>,
    earlier_sha256: Option<Vec<u8>>,
    earlier_reading_rules: Option<i64>,
    earlier_cause: Option<Json<Reason>>,
}

/// What a claim prefers, and how much it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Take {
    /// Objects that are sent again go before new ones. Otherwise new ones go first, so that they do not wait behind a
    /// history that is sent again.
    pub sent_again_first: bool,
    /// Whether objects with failed attempts are taken too.
    pub failed: bool,
    /// The most objects: more than one only if [`Take::small_bytes`] counts them as small.
    pub objects_max: i64,
    /// Objects up to this size, in bytes as stored, are taken together, except those with a failed attempt, so that
    /// they do not affect others.
    pub small_bytes: i64,
}

impl Take {
    /// One object, a new one if there is one.
    pub const ONE: Take = Take { sent_again_first: false, failed: true, objects_max: 1, small_bytes: 0 };
}

/// The transaction `claim`. It takes the first of `domains` that has an object which [`may_claim`] allows, preferring the
/// class that goes first, and in it the object with the lowest `src_ord`, behind [`OpenDomain::tried`] if there is one. If
/// that object is small, the next small ones of its domain and class are taken with it. Two claims at once get different
/// objects.
///
/// A new generation is frozen here, before its first row can be published.
///
/// # Errors
/// If Postgres does not answer.
pub async fn claim(
    pool: &PgPool,
    claimant: Claimant<'_>,
    domains: &[OpenDomain<'_>],
    take: Take,
) -> Result<Vec<Claim>, sqlx::Error> {
    let mut transaction = transactions::begin(pool, "claim", Limits::SHORT).await?;
    sqlx::raw_sql(IN_ORDER).execute(&mut *transaction).await?;
    let searches = searches(domains, take);
    let found: Vec<Found> = sqlx::query_as(AssertSqlSafe(format!(
        "WITH first AS (
            -- Classes are tried in the given order: the join stops at the first one that has an object.
            SELECT c.*, d.domain, d.again
            FROM UNNEST($1::text[], $2::boolean[], $6::bigint[]) AS d (domain, again, after)
            CROSS JOIN LATERAL (
                SELECT o.id, {IS_SMALL} AS is_small
                FROM {FREE} AND o.domain = d.domain AND (o.repairs > 0) = d.again
                    AND o.src_ord > d.after AND (o.attempts = 0 OR $7)
                ORDER BY o.src_ord
                LIMIT 1
                FOR UPDATE OF o SKIP LOCKED
            ) AS c
            LIMIT 1
        ), more AS (
            SELECT c.id
            FROM first CROSS JOIN LATERAL (
                SELECT o.id
                FROM {FREE} AND o.domain = first.domain AND (o.repairs > 0) = first.again
                    AND first.is_small AND {IS_SMALL} AND o.id <> first.id
                ORDER BY o.src_ord
                LIMIT $4
                FOR UPDATE OF o SKIP LOCKED
            ) AS c
        ), candidate AS (SELECT id FROM first UNION ALL SELECT id FROM more)
        SELECT {COLUMNS},
            coalesce((SELECT sum(upper(r) - lower(r))
                FROM pipeline.progress p CROSS JOIN LATERAL unnest(p.received) AS r
                WHERE p.object = o.id AND p.generation = o.generation AND p.domain = o.domain), 0)::bigint AS received,
            earlier.id AS earlier_id, earlier.state AS earlier_state, earlier.sha256 AS earlier_sha256,
            earlier.reading_rules AS earlier_reading_rules, earlier.cause AS earlier_cause
        FROM candidate CROSS JOIN LATERAL (
            -- OFFSET 0: one by one, by a plan from when there were few objects too.
            SELECT * FROM pipeline.objects o WHERE o.id = candidate.id OFFSET 0
        ) AS o
        LEFT JOIN LATERAL (
            SELECT e.* FROM (
                SELECT e.id, e.domain, e.state, e.sha256, e.reading_rules, e.cause FROM pipeline.objects e
                WHERE e.bucket = o.bucket AND e.key = o.key AND e.src_ord < o.src_ord
                ORDER BY e.src_ord DESC OFFSET 0
            ) AS e
            WHERE e.domain = o.domain
            LIMIT 1
        ) AS earlier ON true
        ORDER BY o.src_ord"
    )))
    .bind(searches.iter().map(|search| search.domain).collect::<Vec<_>>())
    .bind(searches.iter().map(|search| search.again).collect::<Vec<_>>())
    .bind(ATTEMPTS_HOLDING_BACK)
    .bind(take.objects_max - 1)
    .bind(take.small_bytes)
    .bind(searches.iter().map(|search| search.after).collect::<Vec<_>>())
    .bind(take.failed)
    .fetch_all(&mut *transaction)
    .await?;
    let changed = |one: Found| {
        let domain = *domains.iter().find(|domain| domain.name == one.object.domain)?;
        let change = claimed_by(claimant, domain, &one.object)?;
        Some((one, domain, change))
    };
    let changes: Vec<(Found, OpenDomain<'_>, Change)> = found.into_iter().filter_map(changed).collect();
    // The snapshot is older than the locks: any object may have changed in between.
    let pairs: Vec<(&Object, &Change)> = changes.iter().map(|(one, _, change)| (&one.object, change)).collect();
    let written = save(&mut transaction, &pairs).await?;
    if written.is_empty() {
        transaction.rollback().await?;
        return Ok(Vec::new());
    }
    transaction.commit().await?;
    let claims = changes.into_iter().filter(|(one, ..)| written.contains(&one.object.id));
    Ok(claims.map(|(one, domain, change)| one.claimed(change.object, domain)).collect())
}

/// Where a claim looks for an object.
struct Search<'a> {
    domain: &'a str,
    /// Whether the objects are those that are sent again.
    again: bool,
    /// Their `src_ord` is above this.
    after: i64,
}

/// The searches in the order to try: all domains in the class that goes first, then in the other one.
fn searches<'a>(domains: &[OpenDomain<'a>], take: Take) -> Vec<Search<'a>> {
    let mut searches = Vec::new();
    for again in [take.sent_again_first, !take.sent_again_first] {
        for domain in domains {
            let (name, tried) = (domain.name, domain.tried[usize::from(again)]);
            if take.failed && tried > i64::MIN {
                searches.push(Search { domain: name, again, after: tried });
            }
            searches.push(Search { domain: name, again, after: i64::MIN });
        }
    }
    searches
}

fn claimed_by<'a>(claimant: Claimant<'a>, domain: OpenDomain<'_>, object: &Object) -> Option<Change<'a>> {
    let Claimant { owner, lease, back_off } = claimant;
    // The lease of the last attempt expired: that counts as a failure too.
    let failures = object.attempts.unsigned_abs() + u32::from(object.state == ObjectState::Publishing);
    let back_off = back_off.after(failures + 1);
    transition(object, Event::Claim { owner, lease, back_off, numbering: domain.numbering })
}

impl Found {
    fn claimed(self, object: Object, domain: OpenDomain<'_>) -> Claim {
        let earlier = self.earlier_id.zip(self.earlier_state).map(|(id, state)| Earlier {
            id,
            state,
            sha256: self.earlier_sha256,
            reading_rules: self.earlier_reading_rules,
            reason: self.earlier_cause.map(|cause| cause.0),
        });
        let numbering = Numbering {
            parser_version: object.parser_version.unwrap_or(domain.numbering.parser_version),
            partitions: object.partition_count.unwrap_or(domain.numbering.partitions),
            reading_rules: object.reading_rules.unwrap_or(domain.numbering.reading_rules),
        };
        Claim { object, numbering, earlier, received: self.received }
    }
}

/// A lease to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// The object's number.
    pub object: i64,
    /// The object's nonce: another life of the ledger may have given its number to another object.
    pub nonce: Uuid,
    /// The epoch from the claim.
    pub lease_epoch: i64,
    /// How long after the end of the lease the object cannot be claimed.
    pub back_off: Duration,
}

/// Renews leases; the result names the objects that are still this listener's. Rows are locked in the order of their
/// ids, first and each once, as in every write of several objects (`save`), so that there are no deadlocks.
///
/// # Errors
/// If Postgres does not answer.
pub async fn renew(pool: &PgPool, leases: &[Renewal], lease: Duration) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH locked AS (SELECT id FROM pipeline.objects WHERE id = ANY ($1) ORDER BY id FOR UPDATE)
         UPDATE pipeline.objects o SET lease_from = t.now, lease_until = t.now + $4 * interval '1 millisecond',
            wait_from = t.now, next_attempt_at = t.now + ($4 + mine.back_off_ms) * interval '1 millisecond'
         FROM UNNEST($1::bigint[], $2::bigint[], $3::double precision[], $5::uuid[])
                AS mine (id, lease_epoch, back_off_ms, nonce),
            (SELECT clock_timestamp() AS now) AS t
         WHERE (SELECT count(*) FROM locked) > 0 AND o.id = mine.id AND o.lease_epoch = mine.lease_epoch
            AND o.nonce = mine.nonce AND o.state = 'publishing'
         RETURNING o.id",
    )
    .bind(leases.iter().map(|one| one.object).collect::<Vec<_>>())
    .bind(leases.iter().map(|one| one.lease_epoch).collect::<Vec<_>>())
    .bind(leases.iter().map(|one| milliseconds(one.back_off)).collect::<Vec<_>>())
    .bind(milliseconds(lease))
    .bind(leases.iter().map(|one| one.nonce).collect::<Vec<_>>())
    .fetch_all(pool)
    .await
}

/// Whether an object may be claimed; [`claim`] does the same in SQL, and a test compares the two. A lease and a wait
/// are intervals: they do not hold before their start (the clock went back), just as they do not hold after their end.
///
/// | state | lease | wait | older version of the key unfinished | may |
/// |---|---|---|---|---|
/// | discovered | – | over | no, or it failed 5 times in a row | yes |
/// | publishing | not held | over | no, or it failed 5 times in a row | yes |
/// | publishing | held | – | – | no |
/// | discovered, publishing | – | not over | – | no |
/// | discovered, publishing | – | – | yes | no |
/// | any other | – | – | – | no |
pub fn may_claim(state: ObjectState, is_leased: bool, is_waiting: bool, earlier_unfinished: Option<i32>) -> bool {
    let is_free = match state {
        ObjectState::Discovered => true,
        ObjectState::Publishing => !is_leased,
        _ => false,
    };
    is_free && !is_waiting && earlier_unfinished.is_none_or(|attempts| attempts >= ATTEMPTS_HOLDING_BACK)
}

/// Whether a version need not be published because the newest older version of its key has the same content; returns
/// that object.
///
/// | the version | older version | its content | verdict |
/// |---|---|---|---|
/// | sent again, read by other rules than before, or rows of it were published | – | – | publish |
/// | any other | none | – | publish |
/// | any other | read by other rules | – | publish |
/// | any other | published, applied | same | nothing to do: same as it |
/// | any other | superseded, as the same content as N | same | nothing to do: same as N |
/// | any other | superseded otherwise, rejected, unfinished | – | publish |
/// | any other | any | other | publish |
pub fn nothing_to_do(claim: &Claim, sha256: &[u8]) -> Option<i64> {
    let Object { repairs, generation, rows, resume_row, .. } = claim.object;
    // An earlier reading may have brought other values of the same rows.
    if repairs > 0 || generation > 1 || rows.is_some() || resume_row > 0 || claim.received > 0 {
        return None;
    }
    // Where the rules of the older one are not known, they are taken to be the same.
    let is_read_alike =
        |earlier: &&Earlier| earlier.reading_rules.is_none_or(|rules| rules == claim.numbering.reading_rules);
    let earlier = claim.earlier.as_ref().filter(|earlier| earlier.sha256.as_deref() == Some(sha256))?;
    let earlier = Some(earlier).filter(is_read_alike)?;
    match earlier.state {
        ObjectState::Published | ObjectState::Applied => Some(earlier.id),
        ObjectState::Superseded => earlier.reason.as_ref().and_then(Reason::same_content_as),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lost::Lost;
    use super::*;

    fn claimed(earlier: Option<(ObjectState, Option<Reason>)>) -> Claim {
        let earlier = earlier.map(|(state, reason)| Earlier {
            id: 5,
            state,
            sha256: Some(vec![1]),
            reading_rules: Some(7),
            reason,
        });
        let numbering = Numbering { parser_version: 1, partitions: 4, reading_rules: 7 };
        Claim { object: Object::example(), numbering, earlier, received: 0 }
    }

    #[test]
    fn behind_what_was_tried_last_a_claim_looks_first_if_it_may_take_what_failed() {
        let numbering = Numbering { parser_version: 1, partitions: 4, reading_rules: 7 };
        let open = |name, tried| OpenDomain { name, numbering, tried };
        let domains = [open("a", [5, i64::MIN]), open("b", OpenDomain::NONE_TRIED)];
        let order = |take: Take| -> Vec<(&'static str, bool, i64)> {
            searches(&domains, take).into_iter().map(|it| (it.domain, it.again, it.after)).collect()
        };
        let from_the_first =
            [("a", false, i64::MIN), ("b", false, i64::MIN), ("a", true, i64::MIN), ("b", true, i64::MIN)];
        assert_eq!(order(Take::ONE), [&[("a", false, 5)][..], &from_the_first[..]].concat());
        assert_eq!(order(Take { failed: false, ..Take::ONE }), from_the_first);
        let again_first = Take { sent_again_first: true, failed: false, ..Take::ONE };
        assert_eq!(order(again_first), [&from_the_first[2..], &from_the_first[..2]].concat());
    }

    #[test]
    fn only_the_same_content_as_the_newest_older_version_is_nothing_to_do() {
        let gone = Reason::Gone { detail: "gone".into(), lost: Lost::Nothing };
        let cases = [
            (None, None),
            (Some((ObjectState::Published, None)), Some(5)),
            (Some((ObjectState::Applied, None)), Some(5)),
            (Some((ObjectState::Superseded, Some(Reason::SameContent { object: 3 }))), Some(3)),
            (Some((ObjectState::Superseded, Some(gone))), None),
            (Some((ObjectState::Rejected, Some(Reason::Unreadable { detail: "no header".into() }))), None),
            (Some((ObjectState::Discovered, None)), None),
        ];
        for (earlier, expected) in cases {
            let claim = claimed(earlier);
            assert_eq!(nothing_to_do(&claim, &[1]), expected, "{claim:?}");
            assert_eq!(nothing_to_do(&claim, &[2]), None, "other content");
            let corrected = Claim { numbering: Numbering { reading_rules: 8, ..claim.numbering }, ..claim.clone() };
            assert_eq!(nothing_to_do(&corrected, &[1]), None, "its contract has been corrected");
            let received = Claim { received: 1, ..claim.clone() };
            assert_eq!(nothing_to_do(&received, &[1]), None, "rows of it are in the tables");
            let again = Claim { object: Object { generation: 2, ..claim.object.clone() }, ..claim.clone() };
            assert_eq!(nothing_to_do(&again, &[1]), None, "rows of another reading may be in the tables");
            let insisted = Claim { object: Object { repairs: 1, ..claim.object.clone() }, ..claim };
            assert_eq!(nothing_to_do(&insisted, &[1]), None, "somebody insists");
        }
    }
}
