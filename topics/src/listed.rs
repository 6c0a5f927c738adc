//! Lists of which people need only the beginning.

/// As many as fit into a line of a log beside the error.
const LISTED_MAX: usize = 3;

/// The first few, and how many more there are: `a, b, c and 5 more`.
pub fn first_few(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(LISTED_MAX);
    let listed = items.take(LISTED_MAX).collect::<Vec<String>>().join(", ");
    match more {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_says_how_much_of_it_is_left_out() {
        let cases = [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more"), (100, "0, 1, 2 and 97 more")];
        for (count, expected) in cases {
            let items: Vec<String> = (0..count).map(|number: usize| number.to_string()).collect();
            assert_eq!(first_few(items.into_iter()), expected);
        }
    }
}
