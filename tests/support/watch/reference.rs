//! What the source has had, partition by partition, as digests of its batches, and whether what the
//! copies show fits it. Every cut and every new creation at the source begins a lineage of its own;
//! all that one replica shows has to be of one of them. Pure: knows no broker.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::judge::Batch;
use super::super::judge::batch::LEADER_EPOCH;

/// More lineages than a test can want; each is one bit.
const MOST_LINEAGES: usize = 60;

/// One partition of the source, and what each replica of its mirror has shown.
#[derive(Debug)]
pub struct Reference {
    lineages: Vec<Lineage>,
    /// The highest that the source has had.
    log_start: i64,
    copies: BTreeMap<i32, Copy>,
    /// Shown by a replica before the source was read so far.
    early: Vec<(i32, Batch)>,
    /// Batches seen that nothing proved right or wrong, since the source lost them unread.
    pub unproved: usize,
    /// Batches seen.
    pub seen: usize,
}

#[derive(Clone, Debug)]
struct Lineage {
    batches: BTreeMap<i64, Print>,
    /// What was read: before, within the holes, and from `end` on nothing is known.
    first: i64,
    end: i64,
    holes: Vec<Range<i64>>,
}

/// Where one replica stands.
#[derive(Clone, Copy, Debug)]
struct Copy {
    /// A bit for each lineage that all it has shown is of.
    fits: u64,
    next_offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    next_offset: i64,
    bytes: usize,
    /// Of all bytes but the leader epoch.
    sum: u32,
}

enum Fit {
    Yes,
    No,
    /// Not read yet.
    Early,
    /// Never to be known.
    Unknown,
}

impl Default for Reference {
    fn default() -> Self {
        Self {
            lineages: vec![Lineage::empty()],
            log_start: 0,
            copies: BTreeMap::new(),
            early: Vec::new(),
            unproved: 0,
            seen: 0,
        }
    }
}

impl Reference {
    /// Where to read the source on.
    pub fn end(&self) -> i64 {
        self.current().end
    }

    /// The source's next batch.
    pub fn on_source(&mut self, batch: &Batch) {
        let current = self.lineages.len() - 1;
        let lineage = &mut self.lineages[current];
        if lineage.batches.is_empty() {
            lineage.first = lineage.first.min(batch.base_offset());
        }
        lineage.batches.insert(batch.base_offset(), Print::of(batch));
        lineage.end = lineage.end.max(batch.next_offset());
    }

    /// The source's log start; what was not read below it will never be.
    pub fn on_source_start(&mut self, log_start: i64) {
        self.log_start = self.log_start.max(log_start);
        let current = self.lineages.len() - 1;
        let lineage = &mut self.lineages[current];
        if lineage.end < log_start {
            if lineage.batches.is_empty() {
                lineage.first = log_start;
            } else {
                lineage.holes.push(lineage.end..log_start);
            }
            lineage.end = log_start;
        }
    }

    /// The source was cut back to `end`, or is a new topic (`end` 0): a lineage begins.
    pub fn on_source_cut(&mut self, end: i64) -> Result<(), String> {
        if self.lineages.len() == MOST_LINEAGES {
            return Err("more lineages at the source than the watch can count".to_owned());
        }
        let old = self.lineages.len() - 1;
        let next = self.lineages[old].cut(end);
        self.lineages.push(next);
        for copy in self.copies.values_mut() {
            let of_old = copy.fits & (1 << old) != 0 && copy.next_offset <= end;
            copy.fits = copy.fits & !(1 << (old + 1)) | u64::from(of_old) << (old + 1);
        }
        Ok(())
    }

    /// A batch that a replica shows.
    pub fn on_copy(&mut self, broker: i32, batch: &Batch) -> Result<(), String> {
        self.seen += 1;
        let copy = self.copies.entry(broker).or_insert(Copy::NEW);
        copy.next_offset = copy.next_offset.max(batch.next_offset());
        self.weigh(broker, batch.clone())
    }

    /// The source was read on: what came early can be judged now.
    pub fn judge_early(&mut self) -> Result<(), String> {
        for (broker, batch) in std::mem::take(&mut self.early) {
            self.weigh(broker, batch)?;
        }
        Ok(())
    }

    /// The replica is read anew from its log start.
    pub fn forget_copy(&mut self, broker: i32) {
        self.copies.remove(&broker);
        self.early.retain(|(of, _)| *of != broker);
    }

    /// What a replica said of its log start, and the source's was asked for since.
    pub fn is_start_of_source(&self, log_start: i64) -> bool {
        log_start <= self.log_start
    }

    /// The source was read to its end: nothing may be left over.
    pub fn finish(&self) -> Result<(), String> {
        match self.early.first() {
            Some((broker, batch)) => {
                let end = self.end();
                Err(format!("broker {broker} shows {batch:?}, the source ends at {end}"))
            }
            None => Ok(()),
        }
    }

    fn weigh(&mut self, broker: i32, batch: Batch) -> Result<(), String> {
        let copy = self.copies.get(&broker).copied().unwrap_or(Copy::NEW);
        let newest = self.lineages.len() - 1;
        let print = Print::of(&batch);
        let (mut fits, mut is_early, mut is_proved) = (0, false, false);
        for (index, lineage) in self.lineages.iter().enumerate() {
            if copy.fits & (1 << index) == 0 {
                continue;
            }
            let is_possible = match lineage.fit(batch.base_offset(), print) {
                Fit::No => false,
                Fit::Early if index == newest => {
                    is_early = true;
                    true
                }
                Fit::Early | Fit::Unknown => true,
                Fit::Yes => {
                    is_proved = true;
                    true
                }
            };
            fits |= u64::from(is_possible) << index;
        }
        if fits == 0 {
            return Err(self.difference(broker, &batch));
        }
        // Lineages to come are decided on when they begin.
        let to_come = !((1 << (newest + 1)) - 1);
        self.copies.insert(broker, Copy { fits: fits | to_come, ..copy });
        if is_early {
            self.early.push((broker, batch));
        } else if !is_proved {
            self.unproved += 1;
        }
        Ok(())
    }

    fn difference(&self, broker: i32, batch: &Batch) -> String {
        let before = self.current().batches.range(..=batch.base_offset()).next_back();
        let there = before.map_or_else(
            || "nothing".to_owned(),
            |(base, print)| format!("offsets {base}..{} bytes {}", print.next_offset, print.bytes),
        );
        format!(
            "offset {} on broker {broker} is {batch:?}; of one lineage with what this replica \
             showed before the source never had that: there it has {there}, of {} lineages",
            batch.base_offset(),
            self.lineages.len()
        )
    }

    fn current(&self) -> &Lineage {
        &self.lineages[self.lineages.len() - 1]
    }
}

impl Lineage {
    fn empty() -> Self {
        Self { batches: BTreeMap::new(), first: 0, end: 0, holes: Vec::new() }
    }

    fn cut(&self, end: i64) -> Self {
        let kept = self.batches.iter().filter(|(_, print)| print.next_offset <= end);
        let end = end.min(self.end);
        let holes = self.holes.iter().map(|hole| hole.start.min(end)..hole.end.min(end));
        Self {
            batches: kept.map(|(base, print)| (*base, *print)).collect(),
            first: self.first.min(end),
            end,
            holes: holes.collect(),
        }
    }

    fn fit(&self, base: i64, print: Print) -> Fit {
        if base >= self.end {
            return Fit::Early;
        }
        if base < self.first || self.holes.iter().any(|hole| hole.contains(&base)) {
            return Fit::Unknown;
        }
        if self.batches.get(&base) == Some(&print) { Fit::Yes } else { Fit::No }
    }
}

impl Copy {
    const NEW: Self = Self { fits: u64::MAX, next_offset: 0 };
}

impl Print {
    fn of(batch: &Batch) -> Self {
        let sum = crc32c::crc32c(&batch.bytes[..LEADER_EPOCH.start]);
        let sum = crc32c::crc32c_append(sum, &batch.bytes[LEADER_EPOCH.end..]);
        Self { next_offset: batch.next_offset(), bytes: batch.bytes.len(), sum }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::judge::produce::plain_batch;
    use super::*;

    fn batch(base: i64, text: &str) -> Batch {
        let mut bytes = plain_batch(&[text.as_bytes()], 1).to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        Batch { bytes: bytes.into() }
    }

    fn source_of(texts: &[&str]) -> Reference {
        let mut reference = Reference::default();
        for (base, text) in (0..).zip(texts) {
            reference.on_source(&batch(base, text));
        }
        reference
    }

    #[test]
    fn what_the_source_has_fits_and_nothing_else() {
        let mut reference = source_of(&["a", "b"]);
        assert!(reference.on_copy(1, &batch(0, "a")).is_ok());
        assert!(reference.on_copy(1, &batch(1, "x")).is_err());
        let mut stamped = batch(1, "b").bytes.to_vec();
        stamped[15] = 7;
        assert!(reference.on_copy(1, &Batch { bytes: stamped.into() }).is_ok());
    }

    #[test]
    fn a_copy_ahead_of_our_reading_is_judged_later() {
        let mut reference = source_of(&["a"]);
        reference.on_copy(1, &batch(1, "b")).unwrap();
        reference.on_copy(2, &batch(1, "x")).unwrap();
        assert!(reference.finish().is_err(), "longer than the source");
        reference.on_source(&batch(1, "b"));
        assert!(reference.judge_early().unwrap_err().contains("broker 2"));
    }

    #[test]
    fn two_lineages_never_mix() {
        let mut reference = source_of(&["a", "b", "c"]);
        reference.on_copy(1, &batch(1, "b")).unwrap();
        reference.on_copy(2, &batch(0, "a")).unwrap();
        reference.on_source_cut(1).unwrap();
        reference.on_source(&batch(1, "other"));
        reference.on_source(&batch(2, "third"));
        assert!(reference.on_copy(1, &batch(2, "c")).is_ok(), "the old lineage alone");
        assert!(reference.on_copy(1, &batch(2, "third")).is_err());
        assert!(reference.on_copy(2, &batch(1, "other")).is_ok(), "cut before it differs");
        assert!(reference.on_copy(2, &batch(2, "c")).is_err());
        reference.forget_copy(2);
        assert!(reference.on_copy(2, &batch(1, "b")).is_ok());
    }

    #[test]
    fn what_the_source_lost_unread_is_neither_right_nor_wrong() {
        let mut reference = source_of(&["a"]);
        reference.on_source_start(5);
        reference.on_source(&batch(5, "f"));
        assert!(reference.on_copy(1, &batch(3, "?")).is_ok());
        assert!(reference.on_copy(1, &batch(5, "x")).is_err());
        assert_eq!(reference.unproved, 1);
        assert!(reference.is_start_of_source(5) && !reference.is_start_of_source(6));
    }
}
