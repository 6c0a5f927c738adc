//! A file cut into lines of cells by a plain reading of the rules: the whole of it at once, character by character,
//! without a line of freshet's own framer.

/// What stands between two line ends that end a record.
pub(crate) enum Line {
    Cells(Vec<String>),
    /// A quote on it is never closed, or has text after its end.
    Stray,
}

/// The records of a file. Lines whose cells are all empty, or blanks alone, are none.
pub(crate) fn records(content: &[u8]) -> Vec<Line> {
    let text = std::str::from_utf8(content).expect("the file is UTF-8").trim_start_matches('\u{feff}');
    let text = text.replace("\r\n", "\n");
    let characters: Vec<char> = text.chars().collect();
    let (mut at, mut records) = (0, Vec::new());
    while at < characters.len() {
        let (line, next) = record(&characters, at);
        let says_nothing = |cell: &String| cell.chars().all(|character| matches!(character, '\u{1}'..=' '));
        if !matches!(&line, Line::Cells(cells) if cells.iter().all(says_nothing)) {
            records.push(line);
        }
        at = next;
    }
    records
}

fn is_line_end(character: Option<&char>) -> bool {
    matches!(character, None | Some('\n' | '\r'))
}

/// The record that begins at a place, and the place after it.
fn record(characters: &[char], mut at: usize) -> (Line, usize) {
    let mut cells = Vec::new();
    loop {
        let mut cell = String::new();
        if characters.get(at) == Some(&'"') {
            let after_line = || at + characters[at..].iter().take_while(|it| !is_line_end(Some(it))).count() + 1;
            let Some(end) = closing_quote(characters, at + 1, &mut cell) else {
                return (Line::Stray, after_line().min(characters.len()));
            };
            let blanks = characters[end..].iter().take_while(|it| matches!(it, ' ' | '\t')).count();
            let next = characters.get(end + blanks);
            if !is_line_end(next) && next != Some(&',') {
                return (Line::Stray, after_line().min(characters.len()));
            }
            at = end;
        }
        while let Some(character) = characters.get(at).filter(|it| !is_line_end(Some(it)) && **it != ',') {
            cell.push(*character);
            at += 1;
        }
        cells.push(cell);
        if is_line_end(characters.get(at)) {
            return (Line::Cells(cells), (at + 1).min(characters.len()));
        }
        at += 1;
    }
}

/// The place after the quote that closes, and the text before it.
fn closing_quote(characters: &[char], mut at: usize, cell: &mut String) -> Option<usize> {
    loop {
        match (characters.get(at)?, characters.get(at + 1)) {
            ('"', Some('"')) => {
                cell.push('"');
                at += 2;
            }
            ('"', _) => return Some(at + 1),
            (character, _) => {
                cell.push(*character);
                at += 1;
            }
        }
    }
}
