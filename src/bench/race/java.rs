//! Java files of a race: small ones, compiled by persistent workers on either side.
//!
//! ```text
//!   input root    java_worker.jar (a tool)   args   ParcelGraph9.java, with
//!                   static final String FULGURITE_BUILD = "fulgurite-race-<16 digits>";
//!   output        out/org/example/p09/ParcelGraph9.class: the constant is in it, as long as it ever is
//! ```
//! The racing daemon is started for each build, its worker too; the remote one keeps its worker from build to build, as
//! a cluster would.
//!
//! Invariants: the class of a build is that of the plain build with the digits in the place of zeros.
//! Limits: of a file's classes the one that has its name is compared; the nested ones have no digits.
use super::units::{MARK, unbuildable};
use crate::bench::BenchError;
use crate::bench::command::{Bare, Streams};
use crate::demo::java_units::{JavaUnit, java_units};
use crate::demo::java_worker::{JAVA_FLAGS, Jdk};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The name of the worker's archive in input roots.
pub const WORKER: &str = "java_worker.jar";
/// The name of the file of arguments.
pub const ARGUMENTS: &str = "args";
/// Where classes go.
const OUT: &str = "out";
/// What asks for a worker that sees of each request its own inputs.
pub const PLATFORM: [(&str, &str); 2] = [("fulgurite-worker-view", "own"), ("supports-workers", "1")];

/// Java files, and what compiles them.
#[derive(Debug)]
pub struct JavaSources {
    jdk: Jdk,
    /// The worker's archive.
    pub worker: Vec<u8>,
    files: Vec<JavaUnit>,
}

impl JavaSources {
    /// Generates `count` files, and builds the worker below `root`.
    ///
    /// # Errors
    /// [`BenchError`]: no JDK, or what could not be built.
    pub fn generate(count: usize, root: &Path) -> Result<JavaSources, BenchError> {
        let jdk = Jdk::find()?;
        let archive = jdk.build_worker(root).map_err(|error| unbuildable(error.to_string()))?;
        let worker = fs::read(&archive).map_err(BenchError::file("read the Java worker"))?;
        Ok(JavaSources { jdk, worker, files: java_units(count) })
    }

    /// Names of all files, with the classes that come of them.
    pub fn outputs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.files.iter().map(|file| (name(file), format!("{OUT}/{}.class", file.class.replace('.', "/"))))
    }

    /// What the worker is told of a file.
    #[must_use]
    pub fn arguments(name: &str) -> Vec<u8> {
        format!("-encoding\nUTF-8\n-d\n{OUT}\n{name}\n").into_bytes()
    }

    /// The command of every action.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let java = self.jdk.java.display().to_string();
        let rest = JAVA_FLAGS.into_iter().chain(["-jar", WORKER]).map(str::to_owned);
        [java].into_iter().chain(rest).chain([format!("@{ARGUMENTS}")]).collect()
    }

    /// A file as it is in the build of this number.
    ///
    /// # Errors
    /// There is no such file.
    pub fn text(&self, index: usize, number: u64) -> Result<Vec<u8>, BenchError> {
        let file =
            self.files.get(index).ok_or_else(|| unbuildable(format!("there is no Java file {index}")))?;
        let simple = file.class.rsplit('.').next().unwrap_or(&file.class);
        // The declaration of the file's class: `public final class ParcelGraph9<T extends Comparable<T>> {`.
        let declared = file.text.find(&format!("class {simple}"));
        let brace = declared.and_then(|at| Some(at + file.text.get(at..)?.find('{')? + 1));
        let (before, after) = brace
            .and_then(|at| file.text.split_at_checked(at))
            .ok_or_else(|| unbuildable(format!("{} declares no class {simple}", file.path.display())))?;
        let constant = format!("\n    static final String FULGURITE_BUILD = \"{MARK}{number:016x}\";");
        Ok([before, &constant, after].concat().into_bytes())
    }

    /// The plain build, by one command, with zeros for digits: classes by file.
    ///
    /// # Errors
    /// The compiler fails.
    pub fn plain(&self, root: &Path, objects: &Path) -> Result<Vec<Vec<u8>>, BenchError> {
        let mut arguments: Vec<OsString> = vec![self.jdk.javac.clone().into()];
        arguments.extend(["-encoding", "UTF-8", "-d"].map(OsString::from));
        arguments.push(objects.join(OUT).into());
        for (index, file) in self.files.iter().enumerate() {
            let path = root.join(name(file));
            fs::write(&path, self.text(index, 0)?)
                .map_err(BenchError::file(format!("write {}", path.display())))?;
            arguments.push(path.into());
        }
        let streams = Streams::new(objects, "plain")?;
        let bare = Bare { arguments, directory: root.to_path_buf(), temporary: objects.to_path_buf() };
        let failed = |why: String| BenchError::Floor { workload: "javac", why };
        if !bare.run(&streams).map_err(|error| failed(error.to_string()))?.success() {
            return Err(failed(streams.last_words()));
        }
        let class = |(_, output): (String, String)| {
            let path: PathBuf = objects.join(output);
            fs::read(&path).map_err(BenchError::file(format!("read {}", path.display())))
        };
        self.outputs().map(class).collect()
    }
}

fn name(file: &JavaUnit) -> String {
    file.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::race::units::numbered;

    #[test]
    fn classes_of_builds_differ_by_their_number_alone() {
        let (root, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // All six shapes.
        let sources = match JavaSources::generate(6, root.path()) {
            Ok(sources) => sources,
            Err(why @ BenchError::NoProgram { .. }) => {
                println!("SKIP classes_of_builds_differ_by_their_number_alone: {why}");
                return;
            }
            Err(why) => panic!("{why}"),
        };
        let plain = sources.plain(root.path(), objects.path()).unwrap();
        assert_eq!(plain.len(), 6);
        let (other_root, other_objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = std::process::Command::new(&sources.jdk.javac);
        command.arg("-d").arg(other_objects.path());
        for (index, (name, _)) in sources.outputs().enumerate() {
            let path = other_root.path().join(name);
            fs::write(&path, sources.text(index, 0x77).unwrap()).unwrap();
            command.arg(path);
        }
        assert!(command.status().unwrap().success());
        for (plain, (_, output)) in plain.iter().zip(sources.outputs()) {
            let found = fs::read(other_objects.path().join(output.strip_prefix("out/").unwrap())).unwrap();
            assert_ne!(&found, plain);
            assert_eq!(found, numbered(plain, 0x77), "{output}");
        }
    }
}
