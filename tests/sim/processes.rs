//! Many seeds, each in a process of its own: then nothing but the seed says what happens in it, and one
//! that fails leaves the others alone.

use std::process::Command;
use std::sync::Mutex;

/// What came of one seed.
pub struct Played {
    pub seed: u64,
    pub is_good: bool,
    pub output: String,
}

/// Plays one seed.
pub fn play(seed: u64, environment: &[(&str, &str)]) -> Played {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own)
        .args(["one_seed", "--exact", "--nocapture", "--quiet"])
        .env("LOCKSTEP_SIM_SEED", seed.to_string())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // What libtest adds has a duration in it.
    let lines = text.lines().filter(|line| !line.starts_with("test result"));
    let mut shown = lines.collect::<Vec<_>>().join("\n");
    if !output.status.success() {
        shown.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    Played { seed, is_good: output.status.success(), output: shown }
}

/// Plays seeds on all cores; those that failed, in order.
pub fn play_all(seeds: impl Iterator<Item = u64> + Send) -> Vec<Played> {
    let seeds = Mutex::new(seeds);
    let kept = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().unwrap().next() else { return };
                    let played = play(seed, &[]);
                    if !played.is_good {
                        kept.lock().unwrap().push(played);
                    }
                }
            });
        }
    });
    let mut kept = kept.into_inner().unwrap();
    kept.sort_by_key(|played: &Played| played.seed);
    kept
}
