//! What the pipeline costs while it works: CPU time by part, from `/proc` (proc_pid_stat(5), proc_stat(5)).

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// Seconds of CPU until now, or between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Cost {
    pub(super) freshet: f64,
    pub(super) postgres: f64,
    pub(super) kafka: f64,
    pub(super) store: f64,
    /// Of all cores together, in which nothing ran.
    pub(super) idle: f64,
    /// That all cores together had.
    pub(super) available: f64,
}

impl Cost {
    /// What was spent after an earlier look.
    pub(super) fn since(&self, earlier: &Cost) -> Cost {
        Cost {
            freshet: self.freshet - earlier.freshet,
            postgres: self.postgres - earlier.postgres,
            kafka: self.kafka - earlier.kafka,
            store: self.store - earlier.store,
            idle: self.idle - earlier.idle,
            available: self.available - earlier.available,
        }
    }

    /// What each of so many things cost.
    pub(super) fn of_each(&self, things: u32) -> Cost {
        let of_each = |seconds: f64| seconds / f64::from(things);
        Cost {
            freshet: of_each(self.freshet),
            postgres: of_each(self.postgres),
            kafka: of_each(self.kafka),
            store: of_each(self.store),
            idle: of_each(self.idle),
            available: of_each(self.available),
        }
    }

    /// Of all parts.
    pub(super) fn all(&self) -> f64 {
        self.freshet + self.postgres + self.kafka + self.store
    }

    /// The share of the cores in which nothing ran.
    pub(super) fn idle_share(&self) -> f64 {
        self.idle / self.available
    }
}

/// The kernel counts in hundredths of a second (`USER_HZ`), whatever its own clock is.
const TICKS_A_SECOND: f64 = 100.0;

/// A process as `/proc/PID/stat` describes it.
#[derive(Debug, Clone, PartialEq)]
struct Process {
    name: String,
    /// Nobody has waited for it yet.
    has_ended: bool,
    parent: u32,
    /// Of its own, in seconds.
    own: f64,
    /// Of its children that have ended, in seconds.
    ended_children: f64,
}

/// What a `freshet up` and the parts that it started have cost until now.
///
/// # Errors
/// If the kernel does not tell.
pub(super) fn until_now(root: u32) -> Result<Cost> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let (idle, available) = cores(&stat).context("/proc/stat has no line of all cores")?;
    let folders = fs::read_dir("/proc").context("read /proc")?.flatten();
    let processes = folders.filter_map(|folder| {
        let id = folder.file_name().to_str()?.parse().ok()?;
        // A process that has ended meanwhile has no such file any more.
        Some((id, process(&fs::read_to_string(folder.path().join("stat")).ok()?)?))
    });
    Ok(Cost { idle, available, ..of_tree(root, &processes.collect()) })
}

/// What one process has used until now, in seconds of CPU, and whether it has ended. What has ended is there until
/// somebody waits for it.
///
/// # Errors
/// If there is no such process.
pub(super) fn of_process(id: u32) -> Result<(f64, bool)> {
    let path = format!("/proc/{id}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let process = process(&stat).with_context(|| format!("{path} is not understood"))?;
    Ok((process.own, process.has_ended))
}

/// Idle and available seconds of all cores: the first line, `cpu user nice system idle iowait irq softirq steal …`.
fn cores(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((idle / TICKS_A_SECOND, ticks.iter().sum::<f64>() / TICKS_A_SECOND))
}

/// The name stands in brackets and may hold anything; the numbers follow the last of them.
fn process(stat: &str) -> Option<Process> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let seconds = |at: usize| fields.get(at)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_A_SECOND);
    Some(Process {
        name: name.to_owned(),
        has_ended: *fields.first()? == "Z",
        parent: fields.get(1)?.parse().ok()?,
        own: seconds(11)? + seconds(12)?,
        ended_children: seconds(13)? + seconds(14)?,
    })
}

/// The root is freshet; each of its children is a part, with all that descends from it.
fn of_tree(root: u32, processes: &HashMap<u32, Process>) -> Cost {
    let mut cost = Cost::default();
    for (id, process) in processes {
        let Some(part) = part(root, *id, processes) else { continue };
        // What has ended was waited for, and is counted by its parent.
        let seconds = process.own + if *id == root { 0.0 } else { process.ended_children };
        match part {
            "java" => cost.kafka += seconds,
            "postgres" => cost.postgres += seconds,
            "weed" => cost.store += seconds,
            _ => cost.freshet += seconds,
        }
    }
    cost
}

/// The name of the part that a process belongs to; `None` if it does not descend from the root.
fn part(root: u32, id: u32, processes: &HashMap<u32, Process>) -> Option<&str> {
    let mut at = id;
    loop {
        let process = processes.get(&at)?;
        match (at == root, process.parent == root) {
            (true, _) | (_, true) => return Some(&process.name),
            _ => at = process.parent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_understood() {
        let stat = "41 (weed (x) y) S 7 41 41 0 -1 4194560 1 0 0 0 150 50 20 30 20 0 9 0 5 1 1\n";
        let expected =
            Process { name: "weed (x) y".into(), has_ended: false, parent: 7, own: 2.0, ended_children: 0.5 };
        assert_eq!(process(stat), Some(expected));
        let ended = process(&stat.replace(" S 7", " Z 7")).expect("a value");
        assert!(ended.has_ended && ended.own == 2.0, "{ended:?}");
        assert_eq!(cores("cpu  100 0 100 700 100 0 0 0 5 5\ncpu0 1\n"), Some((8.0, 10.0)));
        let now = until_now(std::process::id()).expect("a value");
        assert!(now.available > now.idle && now.idle_share() < 1.0, "{now:?}");
    }

    #[test]
    fn the_cost_of_each_part_is_that_of_all_it_started() {
        let process = |name: &str, parent, own, ended_children| {
            let name = name.into();
            Process { name, has_ended: false, parent, own, ended_children }
        };
        let processes = HashMap::from([
            (1, process("init", 0, 50.0, 50.0)),
            (7, process("freshet", 1, 3.0, 9.0)),
            (8, process("postgres", 7, 1.0, 2.0)),
            (9, process("postgres", 8, 4.0, 0.0)),
            (10, process("java", 7, 5.0, 0.0)),
            (11, process("weed", 7, 6.0, 0.0)),
            (12, process("postgres", 1, 70.0, 0.0)),
        ]);
        let cost = of_tree(7, &processes);
        assert_eq!((cost.freshet, cost.postgres, cost.kafka, cost.store), (3.0, 7.0, 5.0, 6.0));
        assert_eq!(cost.all(), 21.0);
        let later = Cost { postgres: 9.0, ..cost };
        assert_eq!(later.since(&cost), Cost { postgres: 2.0, ..Cost::default() });
        assert_eq!(cost.of_each(2).all(), 10.5);
    }
}
