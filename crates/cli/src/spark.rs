//! Commands on Spark. `--master` starts spark-submit, which runs `sparknet/spark/main.py` of the Python package; it and
//! the command talk over a socket in a folder of their own, in lines of JSON. What Spark says goes to a log, so that a
//! run prints what it prints without Spark.

use std::{
    env,
    error::Error as StdError,
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind, Write},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sparknet_engine::spec::LayerKind;
use sparknet_train::{
    Error,
    events::Event,
    job::{NetSource, resolve},
    signals::Control,
};

use crate::{args::quoted, output};

/// How often signals and the end of spark-submit are looked for.
const POLL: Duration = Duration::from_millis(50);
/// So many lines of Spark's log are shown where nothing else says why it ended.
const LAST_LOG_LINES: usize = 20;

/// Where a command runs on Spark, and on what data.
#[derive(clap::Args)]
#[command(next_help_heading = "On Spark")]
pub struct SparkArgs {
    /// Run on this Spark: local[2], local-cluster[2,1,1024], spark://HOST:PORT, yarn or k8s://URL
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Parquet files, a folder of images, an LMDB or SequenceFiles; the data layer's source unless given
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// What --data is; found out unless given
    #[arg(long, value_name = "FORMAT", value_parser = ["parquet", "images", "lmdb", "sequence"])]
    data_format: Option<String>,
    /// A path and a label a line, for images that do not lie in a folder for each class
    #[arg(long, value_name = "FILE")]
    data_list: Option<String>,
    /// Parquet's column with the features; data, image or features unless given
    #[arg(long, value_name = "NAME")]
    features_col: Option<String>,
    /// Parquet's column with the labels; label unless given
    #[arg(long, value_name = "NAME")]
    label_col: Option<String>,
    /// Parquet's column with the rows' names; SampleID or id unless given
    #[arg(long, value_name = "NAME")]
    id_col: Option<String>,
    /// Leave out rows that are null, undecodable or of a wrong size, instead of stopping
    #[arg(long)]
    skip_bad: bool,
    /// A setting of Spark's; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    spark_conf: Vec<String>,
    /// Archives that executors unpack, such as a Python environment: env.tar.gz#env, for which
    /// --spark-conf spark.pyspark.python=./env/bin/python
    #[arg(long, value_name = "FILES")]
    archives: Option<String>,
    /// Jars for Spark's class path
    #[arg(long, value_name = "FILES")]
    jars: Option<String>,
    /// The Python with the package sparknet; PYSPARK_PYTHON, or else python3, unless given
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Keep what Spark says in this file
    #[arg(long, value_name = "FILE")]
    spark_log: Option<PathBuf>,
}

/// What every request says of the data.
#[derive(Serialize)]
struct Request<'a, R> {
    command: &'a str,
    /// The application's name in Spark's UI.
    name: String,
    data: &'a str,
    data_format: Option<&'a str>,
    data_list: Option<&'a str>,
    features_col: Option<&'a str>,
    label_col: Option<&'a str>,
    id_col: Option<&'a str>,
    skip_bad: bool,
    #[serde(flatten)]
    rest: R,
}

/// What the job says.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Event(Event),
    Result(serde_json::Value),
    Error(String),
}

impl SparkArgs {
    /// Refuses flags that say nothing without `--master`.
    ///
    /// # Errors
    /// One of them was given.
    pub fn check_unused(&self) -> Result<(), Error> {
        let given = [
            ("--data", self.data.is_some()),
            ("--data-format", self.data_format.is_some()),
            ("--data-list", self.data_list.is_some()),
            ("--features-col", self.features_col.is_some()),
            ("--label-col", self.label_col.is_some()),
            ("--id-col", self.id_col.is_some()),
            ("--skip-bad", self.skip_bad),
            ("--spark-conf", !self.spark_conf.is_empty()),
            ("--jars", self.jars.is_some()),
            ("--archives", self.archives.is_some()),
            ("--python", self.python.is_some()),
            ("--spark-log", self.spark_log.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(only_on_spark(flag)),
            None => Ok(()),
        }
    }

    /// The flags that were given, to be typed again.
    pub fn flags(&self) -> Vec<String> {
        let python = self.python.as_ref().map(|path| path.display().to_string());
        let log = self.spark_log.as_ref().map(|path| path.display().to_string());
        let given = [
            ("--master", &self.master),
            ("--data", &self.data),
            ("--data-format", &self.data_format),
            ("--data-list", &self.data_list),
            ("--features-col", &self.features_col),
            ("--label-col", &self.label_col),
            ("--id-col", &self.id_col),
            ("--jars", &self.jars),
            ("--archives", &self.archives),
            ("--python", &python),
            ("--spark-log", &log),
        ];
        let settings = self.spark_conf.iter().map(|setting| ("--spark-conf", setting.clone()));
        let given = given
            .into_iter()
            .filter_map(|(flag, value)| Some((flag, value.clone()?)));
        let mut flags: Vec<String> = given
            .chain(settings)
            .map(|(flag, value)| format!("{flag} {}", quoted(&value)))
            .collect();
        if self.skip_bad {
            flags.push("--skip-bad".to_owned());
        }
        flags
    }

    /// Runs `command` on Spark: `rest` is what it needs beside the data, `on_event` hears its events, and a stop that
    /// `control` asks for ends it.
    ///
    /// # Errors
    /// Java, Python, the package or Spark are missing; whatever the job says went wrong.
    pub fn run<R: Serialize, T: DeserializeOwned>(
        &self,
        master: &str,
        command: &str,
        data: &str,
        rest: R,
        control: &Control,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<T, Box<dyn StdError>> {
        let request = Request {
            command,
            name: format!("sparknet {command}"),
            data,
            data_format: self.data_format.as_deref(),
            data_list: self.data_list.as_deref(),
            features_col: self.features_col.as_deref(),
            label_col: self.label_col.as_deref(),
            id_col: self.id_col.as_deref(),
            skip_bad: self.skip_bad,
            rest,
        };
        if let Some(path) = &self.spark_log {
            output::check_file(path)?;
        }
        require_java()?;
        let python = Python::find(self.python.as_deref())?;
        let folder = tempfile::Builder::new().prefix("sparknet-").tempdir()?;
        let log = self.spark_log.clone().unwrap_or(folder.path().join("spark.log"));
        let socket = folder.path().join("command");
        let listener = UnixListener::bind(&socket)?;
        let mut submit = self.submit(master, &request.name, &python)?;
        submit.arg(&python.main).arg(&socket);
        let log_file = File::create(&log).map_err(|cause| Error::Path {
            path: log.clone(),
            fact: format!("Spark's log cannot be written ({cause}): name another file with --spark-log"),
        })?;
        submit
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file)
            // Ctrl-C in a terminal is for the command alone, which ends the job in good order.
            .process_group(0);
        let child = submit.spawn().map_err(|cause| {
            let program = submit.get_program().display();
            Error::Usage(format!(
                "{program} cannot be started ({cause}): set SPARK_HOME to another Spark"
            ))
        })?;
        let mut job = Job { child, is_over: false };
        let result = job.attend(&listener, &serde_json::to_string(&request)?, control, on_event, &log)?;
        Ok(serde_json::from_value(result)?)
    }

    /// Says before Spark does, in fewer words, what a kind of cluster cannot be found without.
    fn check_master(&self, master: &str, spark_home: Option<&Path>) -> Result<(), Error> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if master == "yarn" {
            let folder = variable("HADOOP_CONF_DIR").or_else(|| variable("YARN_CONF_DIR"));
            return match folder {
                Some(folder) if folder.is_dir() => Ok(()),
                Some(path) => Err(Error::Path {
                    path,
                    fact: "this folder does not exist: set HADOOP_CONF_DIR to the one with the cluster's yarn-site.xml"
                        .to_owned(),
                }),
                None => Err(Error::Usage(
                    "--master yarn finds the cluster by its settings: set HADOOP_CONF_DIR to the folder with its \
                     core-site.xml and yarn-site.xml"
                        .to_owned(),
                )),
            };
        }
        if master.starts_with("k8s://") {
            let folder = variable("SPARK_CONF_DIR").or_else(|| spark_home.map(|home| home.join("conf")));
            let defaults = folder.and_then(|folder| fs::read_to_string(folder.join("spark-defaults.conf")).ok());
            let settings = self.spark_conf.iter().map(String::as_str);
            let mut settings = settings.chain(defaults.iter().flat_map(|text| text.lines()));
            let is_image = |setting: &str| {
                let image = setting.trim_start().strip_prefix("spark.kubernetes.");
                image.is_some_and(|name| {
                    name.starts_with("container.image") || name.starts_with("executor.container.image")
                })
            };
            if !settings.any(is_image) {
                return Err(Error::Usage(
                    "--master k8s://… starts executors from an image: give one with Spark and the package sparknet, \
                     --spark-conf spark.kubernetes.container.image=IMAGE"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }

    fn submit(&self, master: &str, name: &str, python: &Python) -> Result<Command, Error> {
        let spark_submit = find_spark_submit(python)?;
        self.check_master(master, spark_submit.parent().and_then(Path::parent))?;
        let mut submit = Command::new(&spark_submit);
        submit.args(["--master", master, "--deploy-mode", "client", "--name", name]);
        // Without it spark.pyspark.python, which may be a path of the executors alone, is for the driver too.
        submit.args([
            "--conf",
            &format!("spark.pyspark.driver.python={}", python.program.display()),
        ]);
        for setting in &self.spark_conf {
            match setting.split_once('=') {
                None => {
                    return Err(Error::Usage(format!(
                        "--spark-conf {setting} has no value: write KEY=VALUE, as in spark.executor.memory=4g"
                    )));
                }
                Some(("spark.submit.deployMode", mode)) if mode != "client" => {
                    return Err(Error::Usage(format!(
                        "--spark-conf {setting} puts the driver elsewhere, but this command talks to it: leave it out"
                    )));
                }
                Some(_) => {}
            }
            submit.args(["--conf", setting]);
        }
        for (flag, files) in [("--jars", &self.jars), ("--archives", &self.archives)] {
            if let Some(files) = files {
                submit.args([flag, files]);
            }
        }
        // Spark's own settings, spark.pyspark.python, count more than these.
        submit.env("PYSPARK_PYTHON", &python.program);
        submit.env("PYSPARK_DRIVER_PYTHON", &python.program);
        if let Some(home) = spark_submit.parent().and_then(Path::parent) {
            submit.env("SPARK_HOME", home);
        }
        Ok(submit)
    }
}

/// The source that a net's first Data layer names.
pub fn source_of(net: &NetSource) -> Option<String> {
    net.spec.layers.iter().find_map(|layer| match &layer.kind {
        LayerKind::Data(data) => Some(resolve(&data.source, &net.folder).display().to_string()),
        _ => None,
    })
}

/// A flag that was given without `--master`.
pub fn only_on_spark(flag: &str) -> Error {
    Error::Usage(format!(
        "{flag} is for Spark: give --master too, local[2] for this machine, or leave it out"
    ))
}

/// Spark's process, which does not outlive the command.
struct Job {
    child: Child,
    is_over: bool,
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_over {
            // Its Python sees the socket close and ends; this is for what has not come so far.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Job {
    fn attend(
        &mut self,
        listener: &UnixListener,
        request: &str,
        control: &Control,
        on_event: &mut dyn FnMut(Event),
        log: &Path,
    ) -> Result<serde_json::Value, Box<dyn StdError>> {
        let Some(mut stream) = self.connected(listener, control)? else {
            return Err(self.ended_silently(log));
        };
        writeln!(stream, "{request}")?;
        let messages = listen(stream.try_clone()?);
        let mut is_asked_to_stop = false;
        let outcome = loop {
            if control.stop_requested() && !is_asked_to_stop {
                is_asked_to_stop = true;
                // Where the job is gone already, the messages end too.
                let _ = stream.write_all(b"stop\n");
            }
            match messages.recv_timeout(POLL) {
                Ok(Message::Event(event)) => on_event(event),
                Ok(Message::Result(result)) => break Ok(result),
                Ok(Message::Error(sentence)) => break Err(Error::Usage(sentence).into()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended_silently(log)),
            }
        };
        // The stream stays open until Spark has cleaned up: its end would end the job at once.
        self.child.wait()?;
        self.is_over = true;
        outcome
    }

    /// The job's end of the socket; `None` where spark-submit ended before.
    fn connected(&mut self, listener: &UnixListener, control: &Control) -> io::Result<Option<UnixStream>> {
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.child.try_wait()?.is_some() || control.stop_requested() {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// Shows the end of Spark's log, and says how it ended.
    fn ended_silently(&mut self, log: &Path) -> Box<dyn StdError> {
        let status = self.child.try_wait().ok().flatten();
        let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        if text.contains("UnsupportedClassVersionError") {
            let fact = "java is too old for this Spark: set JAVA_HOME to Java 17 or newer";
            return Error::Usage(fact.to_owned()).into();
        }
        let Some(status) = status else {
            return Error::Usage("stopped before the job on Spark had begun".to_owned()).into();
        };
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_LOG_LINES)..] {
            output::warn(line);
        }
        Error::Usage(format!(
            "spark-submit ended ({status}) without a word of the job: see its last lines above, or all with --spark-log"
        ))
        .into()
    }
}

/// Reads the job's messages on a thread, until it ends.
fn listen(stream: UnixStream) -> Receiver<Message> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            let message = match serde_json::from_str(&line) {
                Ok(message) => message,
                Err(error) => Message::Error(format!(
                    "the package sparknet says what this command does not know ({error}): install the two of one version"
                )),
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A Python that has the package sparknet.
struct Python {
    program: PathBuf,
    /// The file that spark-submit runs.
    main: PathBuf,
    /// PySpark's folder, where it has PySpark.
    pyspark: Option<PathBuf>,
}

const LOOK: &str = "
import importlib.util, json, sys
def folder(name):
    found = importlib.util.find_spec(name)
    return found.submodule_search_locations[0] if found else None
print(json.dumps({'program': sys.executable, 'sparknet': folder('sparknet'), 'pyspark': folder('pyspark')}))
";

impl Python {
    fn find(given: Option<&Path>) -> Result<Self, Error> {
        let from_env = ["PYSPARK_DRIVER_PYTHON", "PYSPARK_PYTHON"]
            .into_iter()
            .find_map(|name| env::var_os(name).filter(|value| !value.is_empty()));
        let program = given.map(|path| path.as_os_str().to_owned()).or(from_env);
        let program: OsString = program.unwrap_or_else(|| "python3".into());
        let name = program.display().to_string();
        let answer = Command::new(&program).args(["-c", LOOK]).stderr(Stdio::null()).output();
        let answer = answer.map_err(|cause| {
            Error::Usage(format!(
                "{name} cannot be started ({cause}): name a Python 3.10 or newer with --python"
            ))
        })?;
        let found: Option<Found> = serde_json::from_slice(&answer.stdout).ok();
        let Some(found) = found.filter(|_| answer.status.success()) else {
            return Err(Error::Usage(format!(
                "{name} is no Python that works: name another with --python"
            )));
        };
        let Some(sparknet) = found.sparknet else {
            return Err(Error::Usage(format!(
                "{name} has no package sparknet: install its wheel (`make python`), or name another Python with --python"
            )));
        };
        Ok(Self {
            program: found.program,
            main: sparknet.join("spark").join("main.py"),
            pyspark: found.pyspark,
        })
    }
}

#[derive(Deserialize)]
struct Found {
    program: PathBuf,
    sparknet: Option<PathBuf>,
    pyspark: Option<PathBuf>,
}

/// SPARK_HOME's, or else the one of Python's package pyspark, or else the one in PATH.
fn find_spark_submit(python: &Python) -> Result<PathBuf, Error> {
    if let Some(home) = env::var_os("SPARK_HOME").filter(|home| !home.is_empty()) {
        let path = Path::new(&home).join("bin/spark-submit");
        if path.is_file() {
            return Ok(path);
        }
        return Err(Error::Path {
            path,
            fact: "this file does not exist: set SPARK_HOME to a Spark, or unset it".to_owned(),
        });
    }
    let of_python = python.pyspark.as_ref().map(|folder| folder.join("bin/spark-submit"));
    of_python
        .into_iter()
        .chain(in_path("spark-submit"))
        .find(|path| path.is_file())
        .map(|path| fs::canonicalize(&path).unwrap_or(path))
        .ok_or_else(|| {
            let python = python.program.display();
            Error::Usage(format!(
                "there is no Spark: install PySpark (`{python} -m pip install 'pyspark>=4'`), or set SPARK_HOME"
            ))
        })
}

fn in_path(program: &str) -> Vec<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).map(|folder| folder.join(program)).collect()
}

fn require_java() -> Result<(), Error> {
    let home = env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    let candidates = match &home {
        Some(home) => vec![Path::new(home).join("bin/java")],
        None => in_path("java"),
    };
    if candidates.iter().any(|path| path.is_file()) {
        return Ok(());
    }
    Err(Error::Usage(match home {
        Some(_) => "JAVA_HOME has no bin/java: set it to Java 17 or newer, which Spark needs".to_owned(),
        None => "java is missing, which Spark needs: install Java 17 or newer, or set JAVA_HOME".to_owned(),
    }))
}
