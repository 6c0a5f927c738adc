//! Distinguishes a table that refuses everything from a few bad rows.

use std::collections::VecDeque;

use super::error::ApplyError;

/// If Postgres refuses more than this share of the latest rows, the table is at fault, not the rows.
const REFUSED_SHARE_MAX: f64 = 0.5;
/// Below this number of rows the share does not count: a small file may be all wrong.
const REFUSED_ROWS_MIN: usize = 1000;

/// How many of the latest rows Postgres refused: whole batches, as few as make [`REFUSED_ROWS_MIN`] rows.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    /// (rows, refused) of each batch.
    batches: VecDeque<(usize, usize)>,
    rows: usize,
    refused: usize,
}

impl Refusals {
    /// Remembers a batch that was applied.
    pub fn add(&mut self, rows: usize, refused: usize) {
        self.batches.push_back((rows, refused));
        (self.rows, self.refused) = (self.rows + rows, self.refused + refused);
        while let Some((oldest, oldest_refused)) = self.batches.front().copied()
            && self.rows - oldest >= REFUSED_ROWS_MIN
        {
            self.batches.pop_front();
            (self.rows, self.refused) = (self.rows - oldest, self.refused - oldest_refused);
        }
    }

    /// Whether a batch of this many rows and refusals makes too many.
    ///
    /// | before: refused of | batch: refused of | too many |
    /// |---|---|---|
    /// | 0 of 0 | 400 of 400 | no: too few to tell |
    /// | 0 of 0 | 501 of 1000 | yes |
    /// | 900 of 900 | 100 of 100 | yes |
    /// | 900 of 900 | 1 of 100 | no: the batch itself is well |
    /// | 0 of 1000 | 600 of 600 | no: not yet half |
    fn too_many(&self, rows: usize, refused: usize) -> bool {
        let above = |refused: usize, rows: usize| refused as f64 > REFUSED_SHARE_MAX * rows as f64;
        let (all, all_refused) = (self.rows + rows, self.refused + refused);
        all >= REFUSED_ROWS_MIN && above(all_refused, all) && above(refused, rows)
    }
}

/// Whether too many of the batch's `rows` have been refused so far. The error has the last one's reason.
///
/// # Errors
/// [`ApplyError::TooManyRefused`].
pub(crate) fn check_share(recent: &Refusals, refusals: &[(usize, String)], rows: usize) -> Result<(), ApplyError> {
    match refusals.last() {
        Some((_, reason)) if recent.too_many(rows, refusals.len()) => Err(ApplyError::TooManyRefused {
            refused: recent.refused + refusals.len(),
            rows: recent.rows + rows,
            reason: reason.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_refuses_most_rows_is_told_from_bad_rows() {
        let cases = [
            (&[][..], (400, 400), false),
            (&[], (1000, 501), true),
            (&[], (1000, 500), false),
            (&[(900, 900)], (100, 100), true),
            (&[(900, 900)], (100, 1), false),
            (&[(1000, 0)], (600, 600), false),
            (&[(1000, 0), (600, 600), (600, 600)], (100, 100), true),
        ];
        for (before, (rows, refused), expected) in cases {
            let mut recent = Refusals::default();
            for (rows, refused) in before {
                recent.add(*rows, *refused);
            }
            assert_eq!(recent.too_many(rows, refused), expected, "{before:?} then {refused} of {rows}");
        }
    }

    #[test]
    fn only_the_latest_rows_are_remembered() {
        let mut recent = Refusals::default();
        for _ in 0..100 {
            recent.add(300, 100);
        }
        assert_eq!((recent.batches.len(), recent.rows, recent.refused), (4, 1200, 400));
    }
}
