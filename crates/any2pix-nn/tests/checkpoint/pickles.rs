//! Pickles that are more than tensors.

use any2pix_nn::Checkpoint;

use crate::make::{dict, int, pickle, stored_tensor, tensor, text, torch, tuple};
use crate::{llama, read, refused};

/// A file whose pickle is a dictionary of `w` and what `value` makes.
fn with(value: &[u8]) -> Vec<u8> {
    torch(&pickle(&dict(&[("w", tensor(0, &[2], &[1])), ("x", value.to_vec())])))
}

#[test]
fn no_name_but_those_of_tensors_is_taken() {
    let call =
        |name: &str| [format!("c{name}\n(").into_bytes(), text("x"), b"tR".to_vec()].concat();
    for (name, shown) in [
        ("posix\nsystem", "posix.system"),
        ("os\nsystem", "os.system"),
        ("builtins\nexec", "builtins.exec"),
        ("__builtin__\neval", "__builtin__.eval"),
        ("torch.hub\nload", "torch.hub.load"),
        ("torch._tensor\n_rebuild_from_type_v2", "torch._tensor._rebuild_from_type_v2"),
        ("torch\nUntypedStorage", "torch.UntypedStorage"),
        ("torch._utils\n_rebuild_tensor_v3", "torch._utils._rebuild_tensor_v3"),
        ("collections\nOrderedDict.fromkeys", "collections.OrderedDict.fromkeys"),
    ] {
        refused(&with(&call(name)), &format!("refers to `{shown}`"));
        let (module, name) = name.split_once('\n').unwrap();
        refused(&with(&[text(module), text(name), b"\x93".to_vec()].concat()), shown);
    }
    let long = format!("c{}\nx\n", "m".repeat(5000));
    refused(&with(long.as_bytes()), "a line without an end");
}

#[test]
fn nothing_is_run_that_such_a_pickle_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let command = text(&format!("touch {}", mark.display()));
    let body = [b"cposix\nsystem\n(".to_vec(), command, b"tR".to_vec()].concat();
    refused(&with(&body), "posix.system");
    assert!(!mark.exists());
}

#[test]
fn known_names_are_called_in_the_known_way_only() {
    let ordered = b"ccollections\nOrderedDict\n";
    read(&with(&[&ordered[..], b")R"].concat()));
    refused(&with(&[&ordered[..], b"(]tR"].concat()), "OrderedDict in an unknown way");
    refused(&with(&[&ordered[..], b"NR"].concat()), "without a short tuple");
    refused(&with(b"ctorch\nFloatStorage\n)R"), "in an unknown way");
    refused(&with(b"ctorch._utils\n_rebuild_parameter\n)R"), "in an unknown way");
    refused(&with(b"N)R"), "not a known name");
    refused(&with(b"ctorch\nSize\n(]tR"), "in an unknown way");
    // Attributes: those that torch writes beside a state, and no others.
    let built = |state: Vec<u8>| with(&[&ordered[..], b")R", &state, b"b"].concat());
    read(&built(dict(&[("_metadata", b"}".to_vec())])));
    refused(&built(dict(&[("__class__", b"}".to_vec())])), "sets attributes");
    refused(&with(&[&b"]"[..], &dict(&[("_metadata", b"N".to_vec())]), b"b"].concat()), "sets");
    refused(&with(b"Nq\x00Q"), "something other than a storage");
    refused(&with(b"ctorch\nFloatStorage\n)\x81"), "instruction `\\u{81}`");
    refused(&with(b"(icollections\nOrderedDict\n"), "instruction `i`");
    refused(&with(b"Pname\n"), "instruction `P`");
}

#[test]
fn broken_programs_are_refused() {
    refused(&torch(b""), "bytes are needed");
    refused(&torch(b"\x80\x09."), "protocol 9");
    refused(&torch(b"."), "empty stack");
    refused(&torch(b"}"), "bytes are needed");
    refused(&torch(b"}}."), "left over");
    refused(&torch(b"(}."), "left over");
    refused(&torch(b"}.}"), "behind the end of the pickle");
    refused(&torch(b"t."), "a mark that is not there");
    refused(&torch(b"a."), "empty stack");
    refused(&torch(b"}(s."), "empty stack");
    refused(&torch(b"}(Nu."), "a key without a value");
    refused(&torch(b"h\x07."), "recalls 7");
    refused(&torch(b"q\x07."), "empty stack");
    refused(&torch(b"]."), "neither a dictionary nor a tensor");
    refused(&torch(b"}(NNu."), "a key that is neither");
    refused(&torch(b"X\xff\xff\xff\xff"), "bytes are needed");
    refused(&torch(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"), "bytes are needed");
    refused(&torch(b"X\x01\0\0\0\xff."), "not UTF-8");
    refused(&torch(b"\x8a\xff"), "bytes are needed");
}

#[test]
fn bombs_are_refused() {
    let nested = [b"(".repeat(10_000), b"t".repeat(10_000)].concat();
    refused(&with(&nested), "nested deeper than");
    // Lists in lists, a hundred thousand times: no recursion may follow them down.
    let lists = [b"]".repeat(100_000), b"a".repeat(99_999)].concat();
    refused(&with(&lists), "nested too deep");
    // Each list holds the one before it twice: as many values as no machine has.
    let list = |i: u8| match i {
        0 => b"]q\x00".to_vec(),
        i => [b"](h", &[i - 1][..], b"h", &[i - 1], b"eq", &[i]].concat(),
    };
    let doubling: Vec<u8> =
        (0..30_u8).flat_map(|i| [text(&format!("k{i}")), list(i)].concat()).collect();
    refused(&torch(&pickle(&[b"}(", &doubling[..], b"u"].concat())), "too often");
    // A list that holds itself.
    refused(&with(b"]q\x00h\x00a"), "nested too deep");
    refused(&with(&[b"N".repeat(2_100_000), b"t".to_vec()].concat()), "instructions");
    // One long tuple as the arguments of many calls.
    let long = [b"(".to_vec(), b"N".repeat(500_000), b"tq\x00".to_vec()].concat();
    let calls = b"ccollections\nOrderedDict\nh\x00R".repeat(1000);
    refused(&with(&[long, calls].concat()), "without a short tuple");
}

#[test]
fn tensors_that_leave_their_storage_are_refused_by_name() {
    let far = i64::MAX;
    for (offset, shape, strides) in [
        (0, &[7][..], &[1][..]),
        (5, &[2], &[1]),
        (0, &[2, 3], &[4, 1]),
        (7, &[0], &[1]),
        (far, &[1], &[1]),
        (0, &[2], &[far]),
        (far, &[2], &[far]),
        (0, &[far, far], &[1, 1]),
        (0, &[far], &[0]),
        (0, &[1 << 30], &[0]),
        (0, &[0, far], &[0, 0]),
        (0, &[2], &[1, 1]),
        (0, &[1; 9], &[1; 9]),
    ] {
        let bytes = torch(&pickle(&dict(&[("w", tensor(offset, shape, strides))])));
        refused(&bytes, if shape.len() > 8 { "a tensor of which" } else { "`w`: " });
    }
    for (offset, shape, strides) in [(-1, 2, 1), (0, -2, 1), (0, 2, -1)] {
        refused(&with(&tensor(offset, &[shape], &[strides])), "negative");
    }
}

#[test]
fn storages_must_be_there_and_as_large_as_they_claim() {
    let of =
        |kind: &str, key: &str, count: i64| with(&stored_tensor((kind, key, count), 0, &[1], &[1]));
    read(&of("IntStorage", "0", 6));
    read(&of("BoolStorage", "0", 24));
    refused(&of("FloatStorage", "1", 6), "storage `1` is missing");
    refused(&of("FloatStorage", "../data.pkl", 6), "is missing");
    refused(&of("FloatStorage", "0", 5), "has 24 bytes");
    refused(&of("DoubleStorage", "0", 6), "has 24 bytes");
    refused(&of("FloatStorage", "0", i64::MAX), "a shape of");
    refused(&of("FloatStorage", "0", -1), "other than a storage");
    refused(&of("ComplexFloatStorage", "0", 3), "torch.ComplexFloatStorage");
}

#[test]
fn names_may_not_be_there_twice() {
    let w = || tensor(0, &[2], &[1]);
    refused(&torch(&pickle(&dict(&[("w", w()), ("w", w())]))), "`w` is there twice");
    let nested = dict(&[("b", w())]);
    refused(&torch(&pickle(&dict(&[("a.b", w()), ("a", nested)]))), "`a.b` is there twice");
    refused(&torch(&pickle(&dict(&[(&"n".repeat(2000), w())]))), "neither a short text");
}

#[test]
fn what_stands_beside_the_tensors_is_kept_as_text() {
    let items = [
        ("epoch", int(3)),
        ("loss", [&b"G"[..], &0.5_f64.to_be_bytes()].concat()),
        ("ema", dict(&[("w", tensor(0, &[2], &[1]))])),
        ("list", [&b"]("[..], &tensor(1, &[1], &[1]), &text("two"), b"\x88e"].concat()),
        ("size", [&b"ctorch\nSize\n("[..], &tuple(&[4, 5]), b"tR"].concat()),
        ("none", b"N".to_vec()),
    ];
    let checkpoint = read(&torch(&pickle(&dict(&items))));
    assert_eq!(checkpoint.names(), ["ema.w", "list.0"]);
    let kept: Vec<_> =
        checkpoint.metadata().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("epoch", "3"),
        ("list.1", "two"),
        ("list.2", "true"),
        ("loss", "0.5"),
        ("none", "none"),
        ("size.0", "4"),
        ("size.1", "5"),
    ];
    assert_eq!(kept, expected);
}

#[test]
fn legacy_files_are_bounded_by_what_they_hold() {
    let bytes = std::fs::read(llama().join("nested_legacy.ckpt")).unwrap();
    read(&bytes);
    for length in 1..bytes.len() {
        assert!(Checkpoint::from_bytes("cut", &bytes[..length]).is_err(), "{length}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    refused(&longer, "behind the last storage");
    refused(b"\x80\x02]q\x00.", "not one that torch.save writes");
    refused(&[&bytes[..15], b"\x80\x02K\x07."].concat(), "protocol");
}
