//! Keeps the log from being flooded by what repeats: a line that says the same is written once a
//! minute, one place in the code writes at most a few lines a minute, and what was held back is
//! counted in a line of its own. Whoever asks for debug lines gets all of those.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// Lines are counted over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Different lines of one place in the code within that time.
const LINES: usize = 10;
/// Between looks for windows that are over.
const LOOK: Duration = Duration::from_secs(5);
/// Of a line that was held back, so much is quoted.
const QUOTED_BYTES: usize = 300;

/// The filter; clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    places: Arc<Mutex<Places>>,
}

/// By file and line.
type Places = BTreeMap<(&'static str, u32), Place>;

#[derive(Debug)]
struct Place {
    begun: Instant,
    written: HashSet<u64>,
    held_back: u64,
    last: String,
}

impl Repeats {
    /// Tells of what was held back, from a thread of its own, as long as the filter is in use.
    pub fn tell(&self) {
        let places = Arc::downgrade(&self.places);
        std::thread::spawn(move || {
            while let Some(told) = next_told(&places) {
                for (count, last) in told {
                    tracing::info!(count, "held back lines like: {last}");
                }
            }
        });
    }

    /// Whether this line of this place is to be written.
    fn is_due(&self, place: (&'static str, u32), line: &str, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        let mut places = lock(&self.places);
        let place = places.entry(place).or_insert_with(|| Place::new(now));
        // The counting thread ends windows with something to tell.
        if place.held_back == 0 && now.duration_since(place.begun) >= WINDOW {
            *place = Place::new(now);
        }
        let line_hash = hasher.finish();
        if place.written.len() < LINES && place.written.insert(line_hash) {
            return true;
        }
        place.held_back += 1;
        place.last.clear();
        place.last.extend(line.chars().take(QUOTED_BYTES));
        false
    }

    fn over(places: &mut Places, now: Instant) -> Vec<(u64, String)> {
        let mut over = Vec::new();
        for place in places.values_mut() {
            if place.held_back > 0 && now.duration_since(place.begun) >= WINDOW {
                over.push((place.held_back, std::mem::take(&mut place.last)));
                *place = Place::new(now);
            }
        }
        over
    }
}

impl Place {
    fn new(now: Instant) -> Self {
        Self { begun: now, written: HashSet::new(), held_back: 0, last: String::new() }
    }
}

impl<S> Filter<S> for Repeats {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Lines about lines are not held back.
        let is_own = metadata.module_path() == Some(module_path!());
        if *metadata.level() > Level::INFO || is_own {
            return true;
        }
        let (Some(file), Some(number)) = (metadata.file(), metadata.line()) else { return true };
        let mut line = Line::default();
        event.record(&mut line);
        self.is_due((file, number), &line.text(), Instant::now())
    }
}

/// Waits, and gives what is to be told; `None` once nobody logs any more.
fn next_told(places: &Weak<Mutex<Places>>) -> Option<Vec<(u64, String)>> {
    std::thread::park_timeout(LOOK);
    let places = places.upgrade()?;
    let told = Repeats::over(&mut lock(&places), Instant::now());
    Some(told)
}

/// Message first, as people read it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn text(&self) -> String {
        format!("{}{}", self.message, self.fields)
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _infallible = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (&str, u32) = ("here.rs", 1);

    #[test]
    fn the_same_line_is_written_once_a_minute_and_counted() {
        let repeats = Repeats::default();
        let start = Instant::now();
        assert!(repeats.is_due(HERE, "lost", start));
        for second in 1..=50 {
            assert!(!repeats.is_due(HERE, "lost", start + Duration::from_secs(second)));
        }
        assert!(repeats.is_due(HERE, "found", start), "another line");
        assert!(repeats.is_due(("there.rs", 1), "lost", start), "another place");
        let mut places = lock(&repeats.places);
        assert_eq!(Repeats::over(&mut places, start + Duration::from_secs(59)), []);
        let told = Repeats::over(&mut places, start + WINDOW);
        assert_eq!(told, [(50, "lost".to_owned())]);
        drop(places);
        assert!(repeats.is_due(HERE, "lost", start + WINDOW));
    }

    #[test]
    fn one_place_writes_only_so_many_different_lines() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let written = (0..1_000).filter(|n| repeats.is_due(HERE, &format!("{n}"), start)).count();
        assert_eq!(written, LINES);
        let told = Repeats::over(&mut lock(&repeats.places), start + WINDOW);
        assert_eq!(told, [(990, "999".to_owned())]);
    }

    #[test]
    fn a_quiet_place_begins_anew() {
        let repeats = Repeats::default();
        let start = Instant::now();
        assert!(repeats.is_due(HERE, "lost", start));
        assert!(repeats.is_due(HERE, "lost", start + WINDOW));
    }
}
