//! Kafka releases by Maven coordinates: resolved once into a cache, shared by all test processes.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Where releases are kept; default `<repository>/.cache/kafka`.
pub const CACHE: &str = "LOCKSTEP_KAFKA_CACHE";
/// Release of tests that name none.
pub const VERSION: &str = "LOCKSTEP_KAFKA_VERSION";

const DEFAULT_VERSION: &str = "4.3.1";
const LOG4J_VERSION: &str = "2.25.1";
const RELOAD4J_BINDING_VERSION: &str = "1.7.36";
const COMPLETE: &str = ".complete";

/// One release's jars.
#[derive(Clone, Debug)]
pub struct Dist {
    version: String,
    home: PathBuf,
}

/// Release of tests that name none.
pub fn default_version() -> String {
    std::env::var(VERSION).unwrap_or_else(|_| DEFAULT_VERSION.to_owned())
}

impl Dist {
    /// Brokers, stock tools and clients of `version`, e.g. `4.3.1`.
    pub fn get(version: &str) -> Result<Self> {
        Self::resolve(version, version, &[])
    }

    /// The client library alone: for releases whose brokers and tools nobody needs.
    pub fn clients(version: &str) -> Result<Self> {
        let name = format!("{version}-clients");
        Self::resolve_all(version, &name, &["kafka-clients"])
    }

    /// The same as [`Self::get`] with Kafka Streams, and Kafka Connect with its file connectors.
    pub fn with_applications(version: &str) -> Result<Self> {
        let name = format!("{version}-applications");
        Self::resolve(version, &name, &["kafka-streams", "connect-runtime", "connect-file"])
    }

    /// The same with MirrorMaker 2, for comparisons.
    pub fn with_mirror_maker(version: &str) -> Result<Self> {
        let name = format!("{version}-mirror-maker");
        Self::resolve(version, &name, &["connect-mirror"])
    }

    /// The release, e.g. `4.3.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// First number of the release.
    pub fn major(&self) -> u32 {
        let major = self.version.split('.').next();
        major.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Where more of this release may be cached: compiled programs, archives.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Every jar, in one fixed order (a class data archive depends on it).
    pub fn class_path(&self) -> Result<String> {
        let mut jars = Vec::new();
        for entry in std::fs::read_dir(self.home.join("jars"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "jar") {
                jars.push(path.display().to_string());
            }
        }
        jars.sort();
        Ok(jars.join(":"))
    }

    /// A java that runs `main_class`; JVM options come first.
    pub fn java<S: AsRef<str>>(&self, options: &[S], main_class: &str) -> Result<Command> {
        let mut command = Command::new("java");
        command.args(options.iter().map(AsRef::as_ref));
        command.args(["-cp", &self.class_path()?, main_class]);
        Ok(command)
    }

    /// JVM options that send the log of `level` and above to standard error.
    pub fn logging(&self, level: &str) -> Result<Vec<String>> {
        let (name, text, option) = if self.major() >= 4 {
            ("xml", log4j2(level), "log4j2.configurationFile")
        } else {
            ("properties", log4j(level), "log4j.configuration")
        };
        let path = self.home.join(format!("log-{level}.{name}"));
        if !path.exists() {
            write_at_once(&path, &text)?;
        }
        Ok(vec![format!("-D{option}=file:{}", path.display())])
    }

    fn resolve(version: &str, name: &str, extra: &[&str]) -> Result<Self> {
        let artifacts = [&["kafka_2.13", "kafka-tools"], extra].concat();
        Self::resolve_all(version, name, &artifacts)
    }

    fn resolve_all(version: &str, name: &str, artifacts: &[&str]) -> Result<Self> {
        let home = cache()?.join(name);
        std::fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let dist = Self { version: version.to_owned(), home };
        require("java", &["-version"], "a JDK 17, e.g. apt-get install openjdk-17-jdk-headless")?;
        if dist.home.join(COMPLETE).exists() {
            return Ok(dist);
        }
        // Other test processes wait here and find the work done.
        let lock = File::create(dist.home.join(".lock"))?;
        lock.lock().context("lock the cache of Kafka releases")?;
        if !dist.home.join(COMPLETE).exists() {
            dist.download(artifacts)?;
            File::create(dist.home.join(COMPLETE))?;
        }
        Ok(dist)
    }

    fn download(&self, artifacts: &[&str]) -> Result<()> {
        require("mvn", &["-v"], "Maven, e.g. apt-get install maven")?;
        let pom = self.home.join("pom.xml");
        std::fs::write(&pom, self.pom(artifacts))?;
        let jars = self.home.join("jars");
        let output = Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(&pom)
            .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", jars.display()))
            .output()
            .context("run mvn")?;
        ensure!(
            output.status.success(),
            "mvn could not fetch Kafka {}: {}{}",
            self.version,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn pom(&self, artifacts: &[&str]) -> String {
        let binding = if self.major() >= 4 {
            ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION)
        } else {
            ("org.slf4j", "slf4j-reload4j", RELOAD4J_BINDING_VERSION)
        };
        let all = artifacts
            .iter()
            .map(|artifact| ("org.apache.kafka", *artifact, self.version.as_str()))
            .chain([binding]);
        let mut dependencies = String::new();
        for (group, artifact, version) in all {
            let _infallible = write!(
                dependencies,
                "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
                 <version>{version}</version></dependency>"
            );
        }
        format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
             <groupId>lockstep</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>\
             <dependencies>{dependencies}</dependencies></project>\n"
        )
    }
}

/// Where releases, and other people's clients, are kept.
pub fn cache() -> Result<PathBuf> {
    let path = std::env::var_os(CACHE)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/kafka"), PathBuf::from);
    std::path::absolute(&path).context("find the cache of Kafka releases")
}

/// Checks that a program is there, else says what to install.
fn require(program: &str, arguments: &[&str], install: &str) -> Result<()> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) => bail!("{program} does not run; install {install}"),
        Err(error) => {
            Err(error).with_context(|| format!("{program} is missing; install {install}"))
        }
    }
}

/// Readers in other processes see the whole file or none.
fn write_at_once(path: &Path, text: &str) -> Result<()> {
    let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, path)?;
    Ok(())
}

fn log4j2(level: &str) -> String {
    format!(
        "<Configuration status=\"WARN\"><Appenders><Console name=\"err\" target=\"SYSTEM_ERR\">\
         <PatternLayout pattern=\"%d %p %c{{1}}: %m%n\"/></Console></Appenders>\
         <Loggers><Root level=\"{level}\"><AppenderRef ref=\"err\"/></Root></Loggers>\
         </Configuration>\n"
    )
}

fn log4j(level: &str) -> String {
    format!(
        "log4j.rootLogger={level}, err\nlog4j.appender.err=org.apache.log4j.ConsoleAppender\n\
         log4j.appender.err.target=System.err\nlog4j.appender.err.layout=org.apache.log4j.PatternLayout\n\
         log4j.appender.err.layout.ConversionPattern=%d %p %c{{1}}: %m%n\n"
    )
}
