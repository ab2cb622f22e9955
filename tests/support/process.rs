//! A child process that cannot outlive the test: not when it panics, not when it is killed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::eventually::eventually;

/// Runs the program, tells its pid, and kills it when standard input ends, which happens when the
/// test process closes the pipe or dies in whatever way. The watcher ends with the program, so that
/// it never kills a reused pid. `$1` and `$2` are
/// the files for its output and errors, the rest the command.
const SUPERVISOR: &str = r#"
out=$1; err=$2; shift 2
exec 3<&0
"$@" </dev/null >>"$out" 2>>"$err" 3<&- &
pid=$!
{ read -r _ <&3; kill -KILL "$pid" 2>/dev/null; } >/dev/null 2>&1 &
watcher=$!
echo "$pid"
exec >/dev/null
wait "$pid"; code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// Until a killed process is gone.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// A running program under its supervisor.
#[derive(Debug)]
pub struct Supervised {
    supervisor: Child,
    /// Open as long as the program may live.
    lifeline: Option<ChildStdin>,
    pid: u32,
}

impl Supervised {
    /// Starts `program`, output appended to `log`. Its arguments, environment and directory count;
    /// its standard streams do not.
    pub fn spawn(program: &Command, log: &Path) -> Result<Self> {
        Self::spawn_apart(program, log, log)
    }

    /// The same with output and errors in two files.
    pub fn spawn_apart(program: &Command, out: &Path, err: &Path) -> Result<Self> {
        append_to(out)?;
        append_to(err)?;
        let mut command = Command::new("bash");
        command.args(["-c", SUPERVISOR, "supervisor"]);
        command.arg(out).arg(err);
        command.arg(program.get_program()).args(program.get_args());
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(directory) = program.get_current_dir() {
            command.current_dir(directory);
        }
        // A group of its own: a Ctrl-C at the terminal reaches the test, not the brokers.
        let mut supervisor = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start bash, which supervises the processes of a test")?;
        let lifeline = supervisor.stdin.take();
        let stdout = supervisor.stdout.take().context("supervisor's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let pid =
            line.trim().parse().with_context(|| format!("supervisor told no pid but {line:?}"))?;
        Ok(Self { supervisor, lifeline, pid })
    }

    /// Pid of the program itself, not of its supervisor.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Exit code when it has ended; 128 + signal when a signal ended it.
    pub fn exit_code(&mut self) -> Result<Option<i32>> {
        Ok(self.supervisor.try_wait()?.and_then(|status| status.code()))
    }

    /// Waits for the end.
    pub fn wait(&mut self, deadline: Duration) -> Result<i32> {
        let pid = self.pid;
        eventually(deadline, format!("the end of process {pid}"), || match self.exit_code()? {
            Some(code) => Ok(code),
            None => bail!("process {pid} still runs"),
        })
    }

    /// SIGTERM, then waits; a process that does not end in time is an error and still runs.
    pub fn stop(&mut self, deadline: Duration) -> Result<i32> {
        self.signal("TERM")?;
        self.wait(deadline)
    }

    /// SIGKILL, then waits.
    pub fn kill(&mut self) -> Result<i32> {
        self.signal("KILL")?;
        self.wait(KILL_DEADLINE)
    }

    /// SIGSTOP.
    pub fn pause(&mut self) -> Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.signal("CONT")
    }

    /// Sends a signal by name; nothing when the process has ended.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        if self.exit_code()?.is_some() {
            return Ok(());
        }
        let status = Command::new("kill")
            .args(["-s", name, &self.pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .context("run kill")?;
        // It may have ended in between; its supervisor then ends too.
        ensure!(
            status.success() || !is_alive(self.pid),
            "could not send SIG{name} to process {}",
            self.pid
        );
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("could not kill process {}: {error:#}", self.pid);
        }
        // Whatever happened above: without the lifeline the supervisor kills.
        drop(self.lifeline.take());
    }
}

/// Whether a process with this pid exists (a zombie does not count).
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    })
}

fn append_to(log: &Path) -> Result<File> {
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))
}
