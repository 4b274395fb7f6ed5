//! The page: what it holds, that no text becomes markup, and, where Chromium is installed, what a
//! browser makes of it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by unwrapping")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use any2pix_eval::metrics::statistics::Estimate;
use any2pix_eval::{Sample, Suite, chart, page, report};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

const HOSTILE: &str = "</script><script>document.title='owned'</script>\
                       <img src=http://evil.test/x.png onerror=\"document.title='owned'\"> & 'x'";

struct Run {
    root: PathBuf,
}

impl Run {
    /// `count` items of one photo each; every other one has a sound. The first has hostile words
    /// everywhere, the last no output.
    fn new(name: &str, count: usize, side: u32) -> Self {
        let root = std::env::temp_dir().join(format!("any2pix-page-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("suite")).unwrap();
        fs::create_dir_all(root.join("run/outputs")).unwrap();
        let run = Self { root };
        let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/media");
        let photos = ["park.jpg", "room.jpg", "beach.jpg", "village.jpg"]
            .map(|name| image::open(media.join(name)).unwrap().to_rgb8());
        let (mut rows, mut samples) = (String::new(), String::new());
        for index in 0..count {
            let photo = &photos[index % photos.len()];
            let steps = (photo.width() - side, photo.height() - side);
            let offset = (index as u32 * 37 % steps.0, index as u32 * 23 % steps.1);
            let view = image::imageops::crop_imm(photo, offset.0, offset.1, side, side).to_image();
            run.save(&format!("suite/{index}.png"), &view);
            let mut edited = view;
            for (x, y) in (0..400).map(|i| (i % 20 + 4, i / 20 + 4)) {
                edited.put_pixel(x, y, Rgb([200, 30, index as u8]));
            }
            run.save(&format!("suite/{index}-target.png"), &edited);
            if index != 1 {
                edited.put_pixel(30, 30, Rgb([0, 0, 255]));
            }
            if index + 1 < count {
                run.save(&format!("run/outputs/{index}.png"), &edited);
            }
            let (row, sample) = Self::item(index, count);
            if index % 2 == 1 {
                fs::write(run.root.join(format!("suite/{index}.sound")), tone(index)).unwrap();
            }
            rows.push_str(&format!("{row}\n"));
            samples.push_str(&format!("{sample}\n"));
        }
        fs::write(run.root.join("suite/suite.jsonl"), rows).unwrap();
        fs::write(run.root.join("run/samples.jsonl"), samples).unwrap();
        let samples: Vec<Sample> = report::read(&run.root.join("run")).unwrap();
        let results = json!({
            "run": { "model": HOSTILE, "settings": { "seed": 7 } },
            "absent": { "dino": HOSTILE }, "slices": report::slices(&samples),
        });
        fs::write(run.root.join("run/results.json"), results.to_string()).unwrap();
        run
    }

    fn item(index: usize, count: usize) -> (Value, Value) {
        let sound = index % 2 == 1;
        let thing = if sound { format!("[{index}.sound]") } else { "a box".into() };
        let words =
            if index == 0 { format!("{HOSTILE} ").replace(['[', ']'], "") } else { "".into() };
        let instruction = format!("{words}add {thing} to [{index}.png]");
        let kind = if index.is_multiple_of(3) { "remove" } else { "add" };
        let subjects = json!([{
            "name": if index == 0 { HOSTILE } else { "box" }, "role": "add",
            "modality": if sound { "sound" } else { "text" },
            "reference": sound.then(|| format!("{index}.sound")), "bbox": [0, 0, 9, 9],
        }]);
        let row = json!({
            "id": index.to_string(), "kind": kind, "operation": kind, "instruction": instruction,
            "base": format!("{index}.png"), "target": format!("{index}-target.png"),
            "subjects": subjects, "caption": HOSTILE,
        });
        // Item 5 is the worst by `ssim`, item 4 by `l1`.
        let mut figures = json!({
            "edit_right": f64::from(u8::from(index != 5)),
            "ssim": if index == 5 { 0.1 } else { 0.5 + index as f64 / 1000.0 },
            "l1": if index == 4 { 0.9 } else { index as f64 / 1000.0 },
        });
        if index == 2 {
            figures.as_object_mut().unwrap().remove("l1");
        }
        let sample = json!({
            "id": index.to_string(), "kind": kind, "modality": if sound { "sound" } else { "text" },
            "instruction": instruction, "plan": HOSTILE, "figures": figures,
            "error": (index + 1 == count).then_some(HOSTILE),
        });
        (row, sample)
    }

    fn save(&self, name: &str, picture: &RgbImage) {
        let path = self.root.join(name);
        picture.save_with_format(path, image::ImageFormat::Png).unwrap();
    }

    fn write(&self) -> String {
        let suite = Suite::open(&self.root.join("suite")).unwrap();
        page::write(&suite, &self.root.join("run")).unwrap();
        fs::read_to_string(self.file()).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.root.join("run").join(page::FILE)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A second and a half of 16-bit WAV at 16 kHz, of another pitch for every index.
fn tone(index: usize) -> Vec<u8> {
    let step = (200.0 + 7.0 * index as f32) / 16_000.0 * std::f32::consts::TAU;
    let samples = (0..24_000).map(|at| ((at as f32 * step).sin() * 12_000.0) as i16);
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    file.extend(16_000u32.to_le_bytes());
    file.extend(32_000u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(48_000u32.to_le_bytes());
    file.extend(samples.flat_map(i16::to_le_bytes));
    let size = (file.len() as u32 - 8).to_le_bytes();
    file[4..8].copy_from_slice(&size);
    file
}

/// The values of an attribute in HTML, wherever it stands.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    page.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn no_text_becomes_markup_and_nothing_points_outside() {
    let run = Run::new("hostile", 7, 64);
    let page = run.write();
    assert_eq!(page.matches("<script").count(), 2, "data and the page's own");
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<img"), "pictures are made by the script alone");
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;document.title=&#39;owned&#39;"));
    assert!(page.contains("default-src 'none'"));
    let outside = |value: &&&str| !value.starts_with("data:") && !value.starts_with('#');
    let links: Vec<_> = ["src", "href"].iter().flat_map(|name| attributes(&page, name)).collect();
    assert!(!links.is_empty());
    assert_eq!(links.iter().find(outside), None);
    assert!(!page.contains("@import") && !page.contains("url("));
    let namespace = "http://www.w3.org/2000/svg";
    let addresses = page.replace(namespace, "").replace("http://evil.test/x.png", "");
    assert!(!addresses.contains("http://") && !addresses.contains("https://"));
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert!(data["items"][0]["instruction"][0].as_str().unwrap().starts_with("</script>"));
    assert_eq!(data["items"][6]["output"], Value::Null);
    // Three sounds with a drawing each; a photo is there once, though source, output and target.
    let sounds = data["media"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|uri| uri.as_str().unwrap().starts_with("data:audio/wav;base64,"));
    assert_eq!(sounds.count(), 3);
    assert_eq!(data["items"][1]["output"], data["items"][1]["target"]);
}

#[test]
fn the_same_run_gives_the_same_page_on_any_number_of_threads() {
    let run = Run::new("same", 5, 64);
    let first = run.write();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(first == pool.install(|| run.write()));
}

#[test]
fn two_hundred_items_take_less_than_five_megabytes() {
    let run = Run::new("large", 200, 192);
    let page = run.write();
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    assert!(page.len() > 3_000_000, "{} bytes: pictures could be larger", page.len());
}

#[test]
fn a_page_of_curves_has_their_numbers_and_no_grid() {
    let folder = std::env::temp_dir().join(format!("any2pix-curves-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let at = |mean| Estimate { mean, low: mean - 0.1, high: mean + 0.1, count: 3 };
    let points =
        vec![chart::Point::of_setting(0.0, at(0.25)), chart::Point::of_setting(1.0, at(0.5))];
    let lines = vec![chart::Line { name: "alpha".into(), points }];
    let axes = ["alpha".to_string(), "edit".to_string()];
    let chart = chart::Chart::Lines { title: HOSTILE.into(), axes, lines };
    let path = folder.join("sweep.html");
    page::write_charts(&path, "A sweep", &[chart], &json!({"over": "alpha"})).unwrap();
    let page = fs::read_to_string(&path).unwrap();
    assert!(page.contains("<polygon") && page.contains("0.250 <small>0.150 … 0.350</small>"));
    assert!(!page.contains("<img") && !page.contains("id=\"controls\""));
    fs::remove_dir_all(folder).unwrap();
}

/// A Chromium on the path.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file())
}

/// A proxy that answers nobody and remembers what it was asked for.
fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let shared = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(stream).read_line(&mut line);
            shared.lock().unwrap().push(line);
        }
    });
    (port, asked)
}

/// The document as the browser has it after the page's script ran.
fn document(browser: &Path, run: &Run, view: &str, port: u16) -> String {
    let profile = run.root.join("profile");
    let _ = fs::remove_dir_all(&profile);
    let quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"];
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"])
        .args(quiet)
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--proxy-server=127.0.0.1:{port}"))
        .arg("--proxy-bypass-list=<-loopback>")
        .arg(format!("file://{}{view}", run.file().display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut output, &mut text);
        text
    });
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    reader.join().unwrap()
}

#[test]
fn a_browser_draws_the_cards_worst_first_and_asks_for_nothing() {
    let Some(browser) = chromium() else {
        eprintln!("skipped: there is no Chromium on the path (Debian's package is `chromium`)");
        return;
    };
    let run = Run::new("browser", 7, 64);
    run.write();
    let (port, asked) = proxy();
    let ids = |view: &str| -> Vec<String> {
        let document = document(&browser, &run, view, port);
        assert!(!document.contains("<title>owned"), "a text was run as a script");
        assert!(document.contains("mix-blend-mode") && !document.contains("src=\"http"));
        attributes(&document, "data-id").iter().map(|id| id.to_string()).collect()
    };
    // What failed, what was not right, then by likeness to the target.
    assert_eq!(ids(""), ["6", "5", "0", "1", "2", "3", "4"]);
    // Of a distance the largest is the worst, and what has none comes last.
    assert_eq!(ids("#sort=l1"), ["6", "4", "5", "3", "1", "0", "2"]);
    assert_eq!(ids("#sort=l1&order=best"), ["0", "1", "3", "5", "4", "2", "6"]);
    assert_eq!(ids("#order=suite&kind=remove"), ["0", "3", "6"]);
    let sounds: BTreeSet<String> = ids("#modality=sound&text=add").into_iter().collect();
    assert_eq!(sounds.into_iter().collect::<Vec<_>>(), ["1", "3", "5"]);
    let asked = asked.lock().unwrap();
    // The browser itself calls home whatever it shows; the page knows no such name.
    assert!(!fs::read_to_string(run.file()).unwrap().contains("google"));
    let of_page: Vec<_> = asked.iter().filter(|line| !line.contains("google")).collect();
    assert!(of_page.is_empty(), "{of_page:?}");
}
