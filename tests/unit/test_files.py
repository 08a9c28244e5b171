"""What reaches the disk, and what never does."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vtuned import files
from vtuned.errors import DatasetError, OutputExists, OutputNotWritable, UsageError
from vtuned.files import FolderTarget, Line


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


class TestReading:
    def test_lines_join_to_the_file(self, tmp_path: Path) -> None:
        """Not one byte of a file is lost or changed by reading it as lines."""
        content = b'\xef\xbb\xbf{"a":1}\r\n\n  \n{"b":"\xe2\x80\xa8\x85\x0c"}\nlast\r'
        path = tmp_path / "d.jsonl"
        path.write_bytes(content)

        assert content == b"".join(line.raw for line in files.read_lines(path))

    def test_lines_know_where_they_start(self, tmp_path: Path) -> None:
        """Numbers count from 1, offsets in bytes from 0."""
        path = tmp_path / "d.jsonl"
        path.write_bytes("é\r\n\nx".encode())

        assert [(1, 0), (2, 4), (3, 5)] == [(line.number, line.offset) for line in files.read_lines(path)]

    @pytest.mark.parametrize(
        ("line", "body"),
        [
            pytest.param(Line(2, 9, b"{}\n"), b"{}", id="unix"),
            pytest.param(Line(2, 9, b"{}\r\n"), b"{}", id="windows"),
            pytest.param(Line(2, 9, b"{}"), b"{}", id="no-newline"),
            pytest.param(Line(2, 9, b"{}\r"), b"{}\r", id="lone-carriage-return-ends-no-line"),
            pytest.param(Line(1, 0, files.BOM + b"{}\n"), b"{}", id="byte-order-mark"),
            pytest.param(Line(2, 9, files.BOM + b"{}\n"), files.BOM + b"{}", id="no-mark-after-line-1"),
            pytest.param(Line(1, 0, files.BOM), b"", id="mark-alone"),
        ],
    )
    def test_body_is_the_line_without_its_frame(self, line: Line, body: bytes) -> None:
        """Newline and byte order mark are no part of a row."""
        assert body == line.body
        assert line.raw == b"".join(line.parts())

    @pytest.mark.parametrize(
        ("raw", "is_blank"),
        [(b"\n", True), (b" \t\r\n", True), (files.BOM + b"\n", True), (b"{}\n", False), (b"\x0c\n", False)],
    )
    def test_blank_is_json_white_space_only(self, raw: bytes, is_blank: bool) -> None:
        """A form feed is not white space in JSON, so such a line is no blank one."""
        assert is_blank == Line(1, 0, raw).is_blank

    @pytest.mark.parametrize("name", ["missing.jsonl", ".", "file/inside"])
    def test_an_unreadable_path_is_a_dataset_error(self, tmp_path: Path, name: str) -> None:
        """Missing file, folder, file in the place of a folder: one error that names the path, with a hint."""
        (tmp_path / "file").write_bytes(b"")
        path = tmp_path / name

        with pytest.raises(DatasetError) as caught:
            next(files.read_lines(path))
        assert str(path) in str(caught.value)
        assert caught.value.hint
        with pytest.raises(DatasetError):
            files.sha256_of(path)

    def test_sha256_is_that_of_the_bytes(self, tmp_path: Path) -> None:
        """The digest is of the file as it lies on disk, newlines and all."""
        content = b"a\r\n" * 100_000
        (tmp_path / "d").write_bytes(content)

        assert hashlib.sha256(content).hexdigest() == files.sha256_of(tmp_path / "d")


class TestAtomicWriter:
    def test_the_target_appears_only_at_the_end(self, tmp_path: Path) -> None:
        """Nobody can see half a file under its final name."""
        path = tmp_path / "out"
        with files.atomic_writer(path, force=False) as file:
            file.write(b"half")
            assert not path.exists()

        assert b"half" == path.read_bytes()
        assert ["out"] == names(tmp_path)

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
    @pytest.mark.parametrize("force", [False, True])
    def test_whatever_ends_the_block_leaves_nothing(
        self, tmp_path: Path, failure: type[BaseException], force: bool
    ) -> None:
        """Ctrl-C in the middle of writing leaves no file, temporary or other."""
        with pytest.raises(failure), files.atomic_writer(tmp_path / "out", force=force) as file:
            file.write(b"half")
            raise failure

        assert [] == names(tmp_path)

    def test_a_failure_leaves_the_old_file(self, tmp_path: Path) -> None:
        """Overwriting with force touches the old file only once the new one is whole."""
        path = tmp_path / "out"
        path.write_bytes(b"old")
        with pytest.raises(KeyboardInterrupt), files.atomic_writer(path, force=True) as file:
            file.write(b"new")
            raise KeyboardInterrupt

        assert b"old" == path.read_bytes()
        assert ["out"] == names(tmp_path)

    def test_force_replaces(self, tmp_path: Path) -> None:
        """With force the new bytes take the old name."""
        path = tmp_path / "out"
        path.write_bytes(b"a longer old file")
        files.write_bytes(path, b"new", force=True)

        assert b"new" == path.read_bytes()

    def test_no_clobber_without_force(self, tmp_path: Path) -> None:
        """An existing file is refused before the block starts."""
        path = tmp_path / "out"
        path.write_bytes(b"old")
        with pytest.raises(OutputExists) as caught, files.atomic_writer(path, force=False):
            pytest.fail("the block was entered")

        assert str(path) == caught.value.path
        assert b"old" == path.read_bytes()

    def test_a_file_that_appears_meanwhile_is_kept(self, tmp_path: Path) -> None:
        """Two runs with one target: the slower one fails, nothing is overwritten."""
        path = tmp_path / "out"
        with pytest.raises(OutputExists), files.atomic_writer(path, force=False) as file:
            file.write(b"mine")
            path.write_bytes(b"theirs")

        assert b"theirs" == path.read_bytes()
        assert ["out"] == names(tmp_path)

    @pytest.mark.parametrize("is_taken", [False, True])
    def test_no_clobber_without_hard_links(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken: bool
    ) -> None:
        """On a file system without hard links the rules are the same."""

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        path = tmp_path / "out"
        if is_taken:
            with pytest.raises(OutputExists), files.atomic_writer(path, force=False) as file:
                file.write(b"mine")
                path.write_bytes(b"theirs")
        else:
            files.write_bytes(path, b"mine", force=False, secret=True)
            assert 0o600 == mode(path)

        assert (b"theirs" if is_taken else b"mine") == path.read_bytes()
        assert ["out"] == names(tmp_path)

    def test_a_failure_without_hard_links_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The name that was taken to hold the place is given back."""

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OutputNotWritable):
            files.write_bytes(tmp_path / "out", b"x", force=False)

        assert [] == names(tmp_path)

    @pytest.mark.parametrize(
        ("mask", "secret", "expected"),
        [(0o022, False, 0o644), (0o077, False, 0o600), (0, True, 0o600), (0o277, True, 0o600)],
    )
    def test_mode(self, tmp_path: Path, mask: int, secret: bool, expected: int) -> None:
        """A secret is for its owner alone, exactly 0600; any other file is what the umask leaves."""
        with umask(mask):
            files.write_bytes(tmp_path / "out", b"x", force=False, secret=secret)

        assert expected == mode(tmp_path / "out")

    def test_a_secret_is_secret_while_it_is_written(self, tmp_path: Path) -> None:
        """Not even the temporary file of a receipt can be read by others."""
        with umask(0), files.atomic_writer(tmp_path / "out", force=False, secret=True):
            (temporary,) = tmp_path.iterdir()
            assert 0o600 == mode(temporary)

    def test_force_makes_a_readable_file_secret(self, tmp_path: Path) -> None:
        """The mode of the old file is not inherited."""
        path = tmp_path / "out"
        path.write_bytes(b"old")
        path.chmod(0o644)
        files.write_bytes(path, b"new", force=True, secret=True)

        assert 0o600 == mode(path)

    def test_a_link_is_written_through(self, tmp_path: Path) -> None:
        """With force a symbolic link stays a link and its file gets the new bytes."""
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "link").symlink_to("real")
        files.write_bytes(tmp_path / "link", b"new", force=True)

        assert (tmp_path / "link").is_symlink()
        assert b"new" == (tmp_path / "real").read_bytes()

    def test_a_full_disk_is_an_output_error(self, tmp_path: Path) -> None:
        """A write that the system refuses names the target and leaves nothing."""
        path = tmp_path / "out"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(OutputNotWritable) as caught, files.atomic_writer(path, force=False) as file:
                file.write(b"x" * 300_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        assert str(path) == caught.value.path
        assert [] == names(tmp_path)

    def test_an_os_error_of_the_caller_is_left_alone(self, tmp_path: Path) -> None:
        """A failure that has nothing to do with the target is not blamed on it."""
        with pytest.raises(ConnectionError), files.atomic_writer(tmp_path / "out", force=False):
            raise ConnectionError

    def test_a_long_name_can_be_written(self, tmp_path: Path) -> None:
        """The temporary name is no longer than it must be: 255 bytes of name are allowed."""
        files.write_bytes(tmp_path / ("n" * 255), b"x", force=False)

        assert ["n" * 255] == names(tmp_path)


class TestLeftovers:
    """What a writer that was killed left behind goes with the next file that is written into its folder."""

    @staticmethod
    @contextmanager
    def writing(folder: Path, what: str) -> Iterator[subprocess.Popen[str]]:
        """A process in the middle of writing: half a file, or half a folder."""
        half = {
            "file": "with files.atomic_writer(folder / 'half', force=False, secret=True) as file:\n    file.write(b'ha')",
            "folder": "with files.atomic_writers(files.FolderTarget(folder / 'half', frozenset('a')), force=False) as (made,):"
            "\n    (made / 'a').write_bytes(b'ha')",
        }[what]
        code = (
            f"import sys, time\nfrom pathlib import Path\nfrom vtuned import files\nfolder = Path(sys.argv[1])\n{half}"
        )
        code += "\n    print('half', flush=True)\n    time.sleep(600)"
        command = [sys.executable, "-c", code, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "half\n" == process.stdout.readline()
            try:
                yield process
            finally:
                process.kill()

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_half_of_a_killed_writer_is_swept(self, tmp_path: Path, what: str) -> None:
        """Nothing of it stays, and what others call theirs does."""
        pytest.importorskip("fcntl")
        with self.writing(tmp_path, what) as process:
            process.kill()
            process.wait()
        (tmp_path / ".vtuned-notes.tmp").write_text("mine")
        before = len(list(tmp_path.iterdir()))
        files.write_bytes(tmp_path / "whole", b"whole", force=False)

        assert 2 == before
        assert {".vtuned-notes.tmp", "whole"} == {path.name for path in tmp_path.iterdir()}

    def test_a_look_at_a_folder_that_was_killed_leaves_nothing_for_long(self, tmp_path: Path) -> None:
        """Whoever only looks whether a folder can be written leaves a file in it when killed: the next look removes it."""
        pytest.importorskip("fcntl")
        (tmp_path / f".vtuned-{'0' * 16}.tmp").touch()
        files.check_folder(tmp_path / "new")

        assert [] == list(tmp_path.iterdir())

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_a_writer_at_work_keeps_its_half(self, tmp_path: Path, what: str) -> None:
        """It is locked for as long as somebody writes."""
        pytest.importorskip("fcntl")
        with self.writing(tmp_path, what):
            files.write_bytes(tmp_path / "whole", b"whole", force=False)
            left = [path for path in tmp_path.iterdir() if path.name != "whole"]

        assert 1 == len(left)

    def test_a_file_that_was_swept_before_it_was_locked_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The moment between making and locking a temporary file is short, but there."""
        fcntl = pytest.importorskip("fcntl")
        lock, swept = fcntl.flock, []

        def late(descriptor: int, how: int) -> None:
            if not swept:
                swept.extend(path for path in tmp_path.iterdir() if path.name.endswith(".tmp"))
                swept[0].rmdir() if swept[0].is_dir() else swept[0].unlink()
            lock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", late)
        files.write_bytes(tmp_path / "whole", b"whole", force=False)
        swept.clear()
        with files.atomic_writers(FolderTarget(tmp_path / "all", frozenset("a")), force=False) as (folder,):
            assert isinstance(folder, Path)
            (folder / "a").write_bytes(b"whole")

        assert b"whole" == (tmp_path / "whole").read_bytes() == (tmp_path / "all" / "a").read_bytes()
        assert {"all", "whole"} == {path.name for path in tmp_path.iterdir()}


class TestAtomicWriters:
    def test_both_appear_together(self, tmp_path: Path) -> None:
        """Training file and receipt: neither is there before both are whole."""
        train, receipt = tmp_path / "train", tmp_path / "receipt"
        with files.atomic_writers((train, False), (receipt, True), force=False) as (first, second):
            first.write(b"rows")
            second.write(b"secret")
            assert not train.exists() and not receipt.exists()

        assert b"rows" == train.read_bytes()
        assert b"secret" == receipt.read_bytes()
        assert 0o600 == mode(receipt)
        assert ["receipt", "train"] == names(tmp_path)

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
    def test_a_failure_leaves_neither(self, tmp_path: Path, failure: type[BaseException]) -> None:
        """A train file without its receipt could never be verified, so it must not exist."""
        with (
            pytest.raises(failure),
            files.atomic_writers((tmp_path / "a", False), (tmp_path / "b", True), force=False) as (first, _),
        ):
            first.write(b"rows")
            raise failure

        assert [] == names(tmp_path)

    @pytest.mark.parametrize("force", [False, True])
    def test_the_first_is_taken_back_if_the_second_fails(self, tmp_path: Path, force: bool) -> None:
        """When the second cannot be put in place, the first disappears again."""
        second = tmp_path / "b"
        with (
            pytest.raises((OutputExists, OutputNotWritable)),
            files.atomic_writers((tmp_path / "a", False), (second, True), force=force),
        ):
            second.mkdir()

        assert ["b"] == names(tmp_path)

    def test_an_interrupt_between_the_two_takes_the_first_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C after the first file got its name leaves no file."""
        link = os.link

        def link_and_interrupt(source: Path, target: Path) -> None:
            link(source, target)
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "link", link_and_interrupt)
        with (
            pytest.raises(KeyboardInterrupt),
            files.atomic_writers((tmp_path / "a", False), (tmp_path / "b", True), force=False),
        ):
            pass

        assert [] == names(tmp_path)

    def test_one_path_twice_is_refused(self, tmp_path: Path) -> None:
        """A receipt under the name of the training file would replace it."""
        targets: list[tuple[Path | str, bool]] = [(tmp_path / "a", False), (f"{tmp_path}/./a", True)]
        with pytest.raises(UsageError), files.atomic_writers(*targets, force=True):
            pytest.fail("the block was entered")

    def test_nothing_is_opened_if_one_target_is_refused(self, tmp_path: Path) -> None:
        """All targets are checked before the first byte."""
        (tmp_path / "b").write_bytes(b"old")
        with (
            pytest.raises(OutputExists),
            files.atomic_writers((tmp_path / "a", False), (tmp_path / "b", True), force=False),
        ):
            pytest.fail("the block was entered")

        assert ["b"] == names(tmp_path)

    def test_writers_nest(self, tmp_path: Path) -> None:
        """An outer file that fails does not hinder an inner one that has already ended well."""
        with (
            pytest.raises(ValueError, match="outer"),
            files.atomic_writer(tmp_path / "outer", force=False),
        ):
            files.write_bytes(tmp_path / "inner", b"x", force=False)
            raise ValueError("outer")

        assert ["inner"] == names(tmp_path)


class TestCheckTarget:
    def test_a_free_name_passes(self, tmp_path: Path) -> None:
        """Checking writes nothing."""
        files.check_target(tmp_path / "out", force=False)

        assert [] == names(tmp_path)

    def test_a_taken_name_needs_force(self, tmp_path: Path) -> None:
        """A dangling link is a taken name as well."""
        (tmp_path / "link").symlink_to("nowhere")
        with pytest.raises(OutputExists):
            files.check_target(tmp_path / "link", force=False)

        files.check_target(tmp_path / "link", force=True)

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("name", ["folder", "missing/out", "file/out", "fifo"])
    def test_a_place_that_can_hold_no_file(self, tmp_path: Path, name: str, force: bool) -> None:
        """A folder, a name in a missing folder or below a file; force helps none of them, nor a pipe."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_bytes(b"")
        os.mkfifo(tmp_path / "fifo")
        expected = OutputExists if name == "fifo" and not force else OutputNotWritable

        with pytest.raises(expected):
            files.check_target(tmp_path / name, force=force)

    def test_a_device_is_never_replaced(self) -> None:
        """`-o /dev/null --force` as root must not replace the device by a file."""
        with pytest.raises(OutputNotWritable):
            files.check_target("/dev/null", force=True)

    def test_a_read_only_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the system says about writing there is asked before any work."""
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(OutputNotWritable, match="read-only"):
            files.check_target(tmp_path / "out", force=False)

    @pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EISDIR])
    @pytest.mark.parametrize("call", ["open", "fsync", "replace"])
    def test_what_the_system_refuses_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
    ) -> None:
        """Opening, syncing and putting in place report the same error as the early check, and clean up."""

        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch, pytest.raises(OutputNotWritable, match=os.strerror(number)):
            patch.setattr(os, call, refuse)
            files.write_bytes(tmp_path / "out", b"x", force=True)

        assert [] == names(tmp_path)


class TestFolders:
    def target(self, tmp_path: Path) -> FolderTarget:
        return FolderTarget(tmp_path / "out", frozenset({"a", "b"}))

    def write(self, target: FolderTarget, content: bytes, *, force: bool) -> None:
        with files.atomic_writers(target, force=force) as (folder,):
            assert isinstance(folder, Path)
            for name in sorted(target.names):
                with files.new_file(folder / name) as file:
                    file.write(content)

    def test_appears_whole_and_only_at_the_end(self, tmp_path: Path) -> None:
        """Nobody can see half a folder under its final name."""
        target = self.target(tmp_path)
        with files.atomic_writers(target, force=False) as (folder,):
            assert isinstance(folder, Path)
            for name in ("a", "b"):
                with files.new_file(folder / name) as file:
                    file.write(b"x")
            assert not (tmp_path / "out").exists()

        assert (["out"], ["a", "b"]) == (names(tmp_path), names(tmp_path / "out"))
        assert b"x" == (tmp_path / "out" / "a").read_bytes()

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
    @pytest.mark.parametrize("is_there", [False, True])
    def test_whatever_ends_the_block_leaves_things_as_they_were(
        self, tmp_path: Path, failure: type[BaseException], is_there: bool
    ) -> None:
        """No folder comes, and an older one stays."""
        target = self.target(tmp_path)
        if is_there:
            self.write(target, b"old", force=False)
        with pytest.raises(failure), files.atomic_writers(target, force=True) as (folder,):
            assert isinstance(folder, Path)
            with files.new_file(folder / "a") as file:
                file.write(b"half")
                raise failure

        assert (["out"] if is_there else []) == names(tmp_path)
        assert not is_there or b"old" == (tmp_path / "out" / "a").read_bytes()

    def test_an_existing_folder_needs_force(self, tmp_path: Path) -> None:
        """With force the new files take the place of the old ones, and nothing else is left."""
        target = self.target(tmp_path)
        self.write(target, b"old", force=False)
        with pytest.raises(OutputExists):
            self.write(target, b"new", force=False)
        assert b"old" == (tmp_path / "out" / "b").read_bytes()

        self.write(target, b"new", force=True)

        assert b"new" == (tmp_path / "out" / "b").read_bytes()
        assert ["out"] == names(tmp_path)

    @pytest.mark.parametrize("kind", ["file", "folder", "link", "link-of-our-name", "folder-of-our-name", "fifo"])
    def test_what_is_not_ours_is_never_removed(self, tmp_path: Path, kind: str) -> None:
        """A folder with anything else in it stays, force or not; links are not followed."""
        target = self.target(tmp_path)
        self.write(target, b"old", force=False)
        (tmp_path / "elsewhere").write_bytes(b"mine")
        odd = tmp_path / "out" / ("a" if kind.endswith("name") else "odd")
        odd.unlink(missing_ok=True)
        if kind == "file":
            odd.write_bytes(b"mine")
        elif kind.startswith("folder"):
            odd.mkdir()
        elif kind == "fifo":
            os.mkfifo(odd)
        else:
            odd.symlink_to(tmp_path / "elsewhere")

        with pytest.raises(OutputExists) as caught:
            self.write(target, b"new", force=True)

        assert odd.name in caught.value.hint
        assert os.path.lexists(odd)
        assert b"mine" == (tmp_path / "elsewhere").read_bytes()
        assert b"old" == (tmp_path / "out" / "b").read_bytes()
        assert ["elsewhere", "out"] == names(tmp_path)

    def test_what_appears_in_it_meanwhile_is_kept(self, tmp_path: Path) -> None:
        """A file that somebody puts into the older folder while the new one is written is not lost."""
        target = self.target(tmp_path)
        self.write(target, b"old", force=False)
        with pytest.raises(OutputExists), files.atomic_writers(target, force=True) as (folder,):
            assert isinstance(folder, Path)
            (tmp_path / "out" / "theirs").write_bytes(b"theirs")

        assert ["a", "b", "theirs"] == names(tmp_path / "out")
        assert b"old" == (tmp_path / "out" / "a").read_bytes()
        assert ["out"] == names(tmp_path)

    def test_a_folder_that_appears_meanwhile_is_kept(self, tmp_path: Path) -> None:
        """Two runs with one target: the slower one fails."""
        target = self.target(tmp_path)
        with pytest.raises(OutputExists), files.atomic_writers(target, force=False):
            (tmp_path / "out").mkdir()

        assert ([], ["out"]) == (names(tmp_path / "out"), names(tmp_path))

    @pytest.mark.parametrize("force", [False, True])
    def test_a_file_is_no_folder(self, tmp_path: Path, force: bool) -> None:
        """It is not replaced by one."""
        (tmp_path / "out").write_bytes(b"mine")
        with pytest.raises((OutputExists, OutputNotWritable)):
            self.write(self.target(tmp_path), b"new", force=force)

        assert b"mine" == (tmp_path / "out").read_bytes()

    @pytest.mark.parametrize("force", [False, True])
    def test_nowhere_to_put_it(self, tmp_path: Path, force: bool) -> None:
        """The folder around it must be there."""
        with pytest.raises(OutputNotWritable):
            self.write(FolderTarget(tmp_path / "no" / "out", frozenset({"a"})), b"new", force=force)

    def test_a_link_is_written_through(self, tmp_path: Path) -> None:
        """With force a link to a folder stays a link, and its folder is the new one."""
        self.write(FolderTarget(tmp_path / "real", frozenset({"a", "b"})), b"old", force=False)
        (tmp_path / "out").symlink_to("real")

        self.write(self.target(tmp_path), b"new", force=True)

        assert (tmp_path / "out").is_symlink()
        assert b"new" == (tmp_path / "real" / "a").read_bytes()
        assert ["out", "real"] == names(tmp_path)

    @pytest.mark.parametrize(("is_first", "is_there"), [(True, True), (True, False), (False, True)])
    def test_a_folder_and_a_file_together(self, tmp_path: Path, is_first: bool, is_there: bool) -> None:
        """Where the one cannot be put in place, the other is as it was; an older folder comes back."""
        target, file = self.target(tmp_path), (tmp_path / "file", False)
        if is_there:
            self.write(target, b"old", force=False)
        pair: list[files.Target] = [target, file] if is_first else [file, target]
        with pytest.raises((OutputExists, OutputNotWritable)), files.atomic_writers(*pair, force=True):
            if is_first:
                (tmp_path / "file").mkdir()
            else:
                (tmp_path / "out" / "theirs").write_bytes(b"theirs")

        if is_there:
            assert b"old" == (tmp_path / "out" / "a").read_bytes()
        assert not is_first or (["file", "out"] if is_there else ["file"]) == names(tmp_path)
        assert not (tmp_path / "file").is_file()
        assert not [name for name in names(tmp_path) if name.startswith(".vtuned")]

    @pytest.mark.parametrize("n", [1, 2])
    def test_an_interrupt_while_names_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        """Ctrl-C right after the older folder was moved away, or the new one put in place, brings the older back."""
        target = self.target(tmp_path)
        self.write(target, b"old", force=False)
        rename, calls = Path.rename, []

        def rename_and_interrupt(path: Path, to: Path) -> Path:
            moved = rename(path, to)
            calls.append(to)
            if len(calls) == n:
                raise KeyboardInterrupt
            return moved

        monkeypatch.setattr(Path, "rename", rename_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            self.write(target, b"new", force=True)

        assert b"old" == (tmp_path / "out" / "a").read_bytes()
        assert ["out"] == names(tmp_path)

    def test_a_file_of_another_name_is_noticed(self, tmp_path: Path) -> None:
        """What a folder is to hold was said before: nothing else may come into it."""
        with pytest.raises(OutputExists), files.atomic_writers(self.target(tmp_path), force=False) as (folder,):
            assert isinstance(folder, Path)
            (folder / "c").write_bytes(b"")

        assert not (tmp_path / "out").exists()

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """The file that could not be written is named, and nothing is left."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(OutputNotWritable) as caught:
                self.write(self.target(tmp_path), b"x" * 300_000, force=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        assert [] == names(tmp_path)
        assert caught.value.path in (str(tmp_path / "out" / "a"), str(tmp_path / "out" / "b"))

    @pytest.mark.parametrize("name", ["out", "out/a", "link/a", "out/sub/a", "link"])
    def test_no_file_goes_into_a_folder_that_is_replaced(self, tmp_path: Path, name: str) -> None:
        """It would be moved away with the older folder, or be sent with the new one."""
        target = self.target(tmp_path)
        self.write(target, b"old", force=False)
        (tmp_path / "link").symlink_to("out")
        with pytest.raises(UsageError), files.atomic_writers((tmp_path / name, True), target, force=True):
            pass

        assert b"old" == (tmp_path / "out" / "a").read_bytes()
        assert ["link", "out"] == names(tmp_path)

    def test_what_was_placed_last_is_taken_back_first(self) -> None:
        """As each thing was put in place among those before it."""
        done: list[str] = []

        class Output:
            def __init__(self, name: str) -> None:
                self.name = name

            def place(self, *, force: bool) -> None:
                if self.name == "c":
                    raise KeyboardInterrupt

            def take_back(self) -> None:
                done.append(self.name)

        with pytest.raises(KeyboardInterrupt):
            files._place_all([Output(name) for name in "abc"], force=True)  # type: ignore[misc]

        assert ["c", "b", "a"] == done
