//! Two streams of rows that are in the order of their keys, merged: which keys only one has, and which both.

use std::cmp::Ordering;

use futures::{Stream, StreamExt};

/// A row as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub key: Vec<Option<String>>,
    pub values: Vec<Option<String>>,
}

/// What one key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair<'a> {
    Here(&'a Row),
    There(&'a Row),
    Both(&'a Row, &'a Row),
}

/// One side: its rows, of which the first of each key counts.
pub(super) struct Side<S> {
    stream: S,
    next: Option<Row>,
    /// Rows read.
    pub rows: i64,
    /// Rows skipped, because a row with the same key came before.
    pub repeated: i64,
}

impl<S: Stream<Item = anyhow::Result<Row>> + Unpin> Side<S> {
    pub(super) fn new(stream: S) -> Self {
        Side { stream, next: None, rows: 0, repeated: 0 }
    }

    /// Goes to the first row of the next key.
    async fn advance(&mut self) -> anyhow::Result<()> {
        let last = self.next.take();
        while let Some(row) = self.stream.next().await {
            let row = row?;
            self.rows += 1;
            match last.as_ref().map(|last| last.key.cmp(&row.key)) {
                Some(Ordering::Equal) => self.repeated += 1,
                // Another encoding of the database may have another order of bytes.
                Some(Ordering::Greater) => anyhow::bail!("the database does not order {:?} as expected", row.key),
                Some(Ordering::Less) | None => {
                    self.next = Some(row);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Shows every key once, in order.
///
/// # Errors
/// If a side cannot be read to its end.
pub(super) async fn merge<A, B>(
    here: &mut Side<A>,
    there: &mut Side<B>,
    mut show: impl FnMut(Pair<'_>),
) -> anyhow::Result<()>
where
    A: Stream<Item = anyhow::Result<Row>> + Unpin,
    B: Stream<Item = anyhow::Result<Row>> + Unpin,
{
    here.advance().await?;
    there.advance().await?;
    loop {
        let order = match (&here.next, &there.next) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.key.cmp(&other.key),
        };
        match (order, &here.next, &there.next) {
            (Ordering::Equal, Some(one), Some(other)) => show(Pair::Both(one, other)),
            (Ordering::Less, Some(one), _) => show(Pair::Here(one)),
            (_, _, Some(other)) => show(Pair::There(other)),
            (_, _, None) => {}
        }
        if order.is_le() {
            here.advance().await?;
        }
        if order.is_ge() {
            there.advance().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn side(keys: &[Option<&str>]) -> Side<impl Stream<Item = anyhow::Result<Row>> + Unpin + use<>> {
        let row = |key: &Option<&str>| Ok(Row { key: vec![key.map(str::to_owned)], values: Vec::new() });
        Side::new(stream::iter(keys.iter().map(row).collect::<Vec<_>>()))
    }

    #[tokio::test]
    async fn each_key_is_shown_once_whichever_side_has_it() {
        let (null, a, b, c, d) = (None, Some("a"), Some("b"), Some("c"), Some("d"));
        type Keys<'a> = &'a [Option<&'a str>];
        let cases: [(Keys, Keys, &str); 6] = [
            (&[], &[], ""),
            (&[a, b], &[], "a< b<"),
            (&[], &[a], "a>"),
            (&[null, a, c], &[null, b, c], "-= a< b> c="),
            (&[a, d], &[a, a, b, d, d], "a= b> d="),
            (&[b], &[a, c], "a> b< c>"),
        ];
        for (here, there, expected) in cases {
            let (mut one, mut other) = (side(here), side(there));
            let mut shown = Vec::new();
            let name = |row: &Row| row.key[0].clone().unwrap_or("-".into());
            merge(&mut one, &mut other, |pair| {
                shown.push(match pair {
                    Pair::Here(row) => format!("{}<", name(row)),
                    Pair::There(row) => format!("{}>", name(row)),
                    Pair::Both(row, _) => format!("{}=", name(row)),
                });
            })
            .await
            .expect("merge");
            assert_eq!(shown.join(" "), expected);
            assert_eq!((one.rows, other.rows), (here.len() as i64, there.len() as i64));
        }
        let (mut one, mut other) = (side(&[a]), side(&[a, a, a]));
        merge(&mut one, &mut other, |_| ()).await.expect("merge");
        assert_eq!((one.repeated, other.repeated), (0, 2));
    }

    #[tokio::test]
    async fn a_side_in_another_order_is_refused_and_not_merged_wrongly() {
        let (mut one, mut other) = (side(&[Some("b"), Some("a")]), side(&[]));
        let refused = merge(&mut one, &mut other, |_| ()).await.expect_err("out of order");
        assert!(refused.to_string().contains("does not order"), "{refused}");
    }
}
