//! The declared packages: fetched by name with their registries' own clients, unpacked once.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{PlayroomError, Result};

/// Where a package comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// `apt-get download`, unpacked with `dpkg -x`.
    Debian,
    /// `npm pack`.
    Npm,
    /// `pip download --no-deps`.
    PyPi,
}

/// One package of the recipe.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Its registry.
    pub registry: Registry,
    /// Its name there.
    pub name: &'static str,
    /// What the registry's client is asked for (the name, with a version where it matters).
    pub request: &'static str,
}

const fn debian(name: &'static str) -> Package {
    Package { registry: Registry::Debian, name, request: name }
}

const fn npm(name: &'static str) -> Package {
    Package { registry: Registry::Npm, name, request: name }
}

/// All packages that the Playroom is made of.
pub const PACKAGES: &[Package] = &[
    debian("tuxpaint-stamps-default"),
    debian("openclipart-svg"),
    debian("pysiogame"),
    debian("scratch"),
    debian("openttd-opensfx"),
    debian("sonic-pi-samples"),
    debian("minetest-data"),
    debian("bucklespring-data"),
    debian("sound-icons"),
    debian("hydrogen-drumkits-effects"),
    debian("lincity-ng-data"),
    debian("widelands-data"),
    debian("megaglest-data"),
    debian("simutrans-pak64"),
    debian("searchandrescue-data"),
    debian("sound-theme-freedesktop"),
    debian("bambam"),
    debian("fluid-soundfont-gm"),
    debian("tuxpaint-data"),
    debian("mate-backgrounds"),
    debian("plasma-workspace-wallpapers"),
    debian("palapeli-data"),
    npm("@iconify-json/noto"),
    npm("@iconify-json/fluent-emoji-flat"),
    npm("@iconify-json/openmoji"),
    Package { registry: Registry::PyPi, name: "scikit-image", request: "scikit-image==0.22.0" },
];

/// The folder of unpacked packages.
#[derive(Clone, Debug)]
pub struct Packages {
    dir: PathBuf,
}

impl Packages {
    /// Packages kept under `dir` (archives in `dir/archives`, contents in `dir/root`).
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The unpacked contents of `package`.
    pub fn root(&self, package: &str) -> PathBuf {
        self.dir.join("root").join(folder_name(package))
    }

    /// The path of `file` of `package`; what follows a `#` names an entry inside the file.
    pub fn file(&self, package: &str, file: &str) -> PathBuf {
        let file = file.split('#').next().unwrap_or(file);
        let root = self.root(package);
        if package.starts_with('@') { root.join("package").join(file) } else { root.join(file) }
    }

    /// Fetches and unpacks what is not there yet; `report` is told what is being done.
    pub fn fetch(&self, report: &mut dyn FnMut(&str)) -> Result<()> {
        let missing: Vec<&Package> =
            PACKAGES.iter().filter(|package| !self.root(package.name).is_dir()).collect();
        for package in missing {
            report(&format!("fetching {}", package.name));
            self.fetch_one(package)?;
        }
        Ok(())
    }

    fn fetch_one(&self, package: &Package) -> Result<()> {
        let folder = folder_name(package.name);
        let archives = self.dir.join("archives").join(&folder);
        if archives.exists() {
            // A half-fetched archive from an interrupted run would be taken for a whole one.
            std::fs::remove_dir_all(&archives).map_err(PlayroomError::io(&archives))?;
        }
        create_dir(&archives)?;
        let doing = format!("fetch {}", package.name);
        match package.registry {
            Registry::Debian => run("apt-get", &["download", package.request], &archives, &doing)?,
            Registry::Npm => run("npm", &["pack", "--silent", package.request], &archives, &doing)?,
            Registry::PyPi => {
                let arguments = ["download", "--quiet", "--no-deps", package.request];
                run("pip", &arguments, &archives, &doing)?;
            }
        }
        let archive = only_file(&archives)?;
        let partial = self.dir.join("root").join(format!("{folder}.tmp"));
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(PlayroomError::io(&partial))?;
        }
        create_dir(&partial)?;
        unpack(package.registry, &archive, &partial)?;
        let root = self.root(package.name);
        std::fs::rename(&partial, &root).map_err(PlayroomError::io(&root))?;
        std::fs::remove_dir_all(&archives).map_err(PlayroomError::io(&archives))
    }
}

/// `@scope/name` is no file name.
fn folder_name(package: &str) -> String {
    package.trim_start_matches('@').replace('/', "-")
}

pub(super) fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(PlayroomError::io(path))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(PlayroomError::io(dir))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files.pop().ok_or_else(|| PlayroomError::Format {
        path: dir.to_owned(),
        detail: "the client downloaded nothing".to_owned(),
    })
}

fn unpack(registry: Registry, archive: &Path, into: &Path) -> Result<()> {
    match registry {
        Registry::Debian => {
            let from = archive.to_string_lossy().into_owned();
            let to = into.to_string_lossy().into_owned();
            run("dpkg", &["-x", &from, &to], into, &format!("unpack {from}"))
        }
        Registry::Npm => {
            let file = std::fs::File::open(archive).map_err(PlayroomError::io(archive))?;
            tar::Archive::new(flate2::read::GzDecoder::new(file))
                .unpack(into)
                .map_err(PlayroomError::io(archive))
        }
        Registry::PyPi => {
            let file = std::fs::File::open(archive).map_err(PlayroomError::io(archive))?;
            zip::ZipArchive::new(file)
                .and_then(|mut zip| zip.extract(into))
                .map_err(PlayroomError::format(archive))
        }
    }
}

fn run(tool: &'static str, arguments: &[&str], dir: &Path, doing: &str) -> Result<()> {
    let output = Command::new(tool)
        .args(arguments)
        .current_dir(dir)
        .output()
        .map_err(|_| PlayroomError::ToolMissing { tool, doing: doing.to_owned() })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().rev().take(4).collect();
    let detail = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(PlayroomError::ToolFailed { tool, doing: doing.to_owned(), detail })
}
