//! Chance that is the same on every machine: hashes and plain arithmetic, no `sin` or `exp` of the system's library.

/// 1 at the height of a season, 0 outside of it. Days are counted from the first of the year.
pub(super) fn season(ordinal: f64, height: f64, half_days: f64) -> f64 {
    let apart = (ordinal - height).abs() % 365.0;
    smooth((1.0 - apart.min(365.0 - apart) / half_days).max(0.0))
}

/// From 0 to 1, gently at both ends.
pub(super) fn smooth(along: f64) -> f64 {
    along * along * (3.0 - 2.0 * along)
}

/// A text as a number, so that names tell streams of chance apart (FNV-1a).
pub(super) fn salt(texts: &[&str]) -> u64 {
    let of_text = |hash: u64, text: &&str| {
        text.bytes().fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
    };
    mix(texts.iter().fold(0xCBF2_9CE4_8422_2325, |hash, text| mix(of_text(hash, text))))
}

const SYLLABLES: [&str; 24] = [
    "Ka", "Ra", "Ma", "Su", "Vi", "Ban", "Chan", "Dha", "Gan", "Har", "Jal", "Ko", "Lak", "Mir", "Na", "Pal", "Ram",
    "Sha", "Tal", "Ud", "Var", "Ya", "An", "Bel",
];
const MIDDLES: [&str; 12] = ["ra", "ni", "li", "ma", "ta", "va", "ri", "da", "hi", "no", "ku", "sa"];
const ENDINGS: [&str; 12] =
    ["pur", "garh", "abad", "nagar", "kot", "wadi", "desh", "giri", "patnam", "gaon", "khand", "oor"];

/// A name that could be a place's.
pub(super) fn name(dice: &mut Dice) -> String {
    let name = format!("{}{}{}", dice.pick(&SYLLABLES), dice.pick(&MIDDLES), dice.pick(&ENDINGS));
    match dice.next() % 8 {
        0 => format!("North {name}"),
        1 => format!("South {name}"),
        _ => name,
    }
}

/// Random numbers in a row from one state (splitmix64, Steele, Lea and Flood 2014).
pub(super) struct Dice(u64);

impl Dice {
    /// A row of its own for these numbers.
    pub(super) fn of(parts: &[u64]) -> Self {
        Dice(parts.iter().fold(0, |state, part| mix(state ^ *part)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// 0 up to but not including 1.
    pub(super) fn unit(&mut self) -> f64 {
        unit(self.next())
    }

    /// Whether something of that share happens.
    pub(super) fn hits(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// One of these; there must be one.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[(self.next() % from.len() as u64) as usize]
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A state well mixed.
pub(super) fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(GOLDEN);
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// 0 up to but not including 1.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
