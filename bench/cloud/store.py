"""As much of S3 as backups, their verification and pgBackRest call. Small bodies stay in memory, large ones lie in a folder."""
import email.utils
import pathlib
import re
import shutil
import threading
import urllib.parse

from cloud.web import Handler

SMALL = 1 << 20


class Object:
    """The pieces that an object was written in, bytes or files, and how whoever wrote it wanted it kept."""

    def __init__(self, pieces, tag, kept):
        self.pieces, self.tag, self.kept = pieces, tag, kept

    @property
    def size(self):
        return sum(length(piece) for piece in self.pieces)


def length(piece):
    return piece.stat().st_size if isinstance(piece, pathlib.Path) else len(piece)


class Store(Handler):
    lock, objects, uploads, number, folder = threading.Lock(), {}, {}, 0, None

    def error(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), [("content-type", "application/xml")])

    def xml(self, text):
        self.answer(200, text.encode(), [("content-type", "application/xml")])

    def asked(self):
        path, _, query = self.path.partition("?")
        return urllib.parse.unquote(path), urllib.parse.parse_qs(query, keep_blank_values=True)

    def piece(self, tag):
        left = int(self.headers.get("content-length", 0))
        if left <= SMALL:
            return self.rfile.read(left)
        file = Store.folder / tag
        with open(file, "wb", buffering=0) as kept:
            while left and (read := self.rfile.read(min(left, SMALL))):
                kept.write(read)
                left -= len(read)
        return file

    def kept(self):
        """How a new object is to be kept."""
        return {name: value for name, value in self.headers.items() if name.lower().startswith(("x-amz-server-side-", "x-amz-storage-"))}

    def tag(self):
        with self.lock:
            Store.number += 1
            return str(Store.number)

    def do_PUT(self):
        (path, query), tag = self.asked(), self.tag()
        piece = self.piece(tag)
        with self.lock:
            if "partNumber" in query:
                self.uploads[query["uploadId"][0]].pieces[int(query["partNumber"][0])] = piece
            else:
                there = self.objects.get(path)
                wanted = self.headers.get("if-match")
                if (there and self.headers.get("if-none-match")) or (wanted and (not there or f'"{there.tag}"' != wanted)):
                    return self.error(412, "PreconditionFailed")
                self.objects[path] = Object([piece], tag, self.kept())
        self.answer(200, headers=[("etag", f'"{tag}"')])

    def do_POST(self):
        (path, query), body, tag = self.asked(), self.body(), self.tag()
        if "delete" in query:
            self.remove(f"{path.rstrip('/')}/{key}" for key in re.findall(r"<Key>(.*?)</Key>", body.decode()))
            return self.xml("<DeleteResult></DeleteResult>")
        if "uploads" in query:
            with self.lock:
                self.uploads[tag] = Object({}, tag, self.kept())
            return self.xml(f"<InitiateMultipartUploadResult><UploadId>{tag}</UploadId></InitiateMultipartUploadResult>")
        with self.lock:
            begun = self.uploads.pop(query["uploadId"][0])
            self.objects[path] = Object([begun.pieces[number] for number in sorted(begun.pieces)], tag, begun.kept)
        self.xml(f"<CompleteMultipartUploadResult><ETag>&quot;{tag}&quot;</ETag></CompleteMultipartUploadResult>")

    def do_DELETE(self):
        self.remove([self.asked()[0]])
        self.answer(204)

    def do_GET(self):
        path, query = self.asked()
        if "uploads" in query:
            return self.xml("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
        if "uploadId" in query:
            return self.xml("<ListPartsResult><IsTruncated>false</IsTruncated></ListPartsResult>")
        if "list-type" in query:
            return self.list(f"{path.rstrip('/')}/", query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
        with self.lock:
            there = self.objects.get(path)
        if not there:
            return self.error(404, "NoSuchKey")
        size = there.size
        first, last = self.range(size)
        self.send_response(206 if "range" in self.headers else 200)
        self.send_header("etag", f'"{there.tag}"')
        self.send_header("last-modified", email.utils.formatdate(usegmt=True))
        self.send_header("content-length", str(last - first))
        for name, value in there.kept.items():
            self.send_header(name, value)
        if "range" in self.headers:
            self.send_header("content-range", f"bytes {first}-{last - 1}/{size}")
        self.end_headers()
        if self.command != "HEAD":
            self.send(there, first, last)

    do_HEAD = do_GET

    def list(self, bucket, prefix, delimiter):
        with self.lock:
            listed = sorted((path.removeprefix(bucket), there.size) for path, there in self.objects.items() if path.startswith(bucket + prefix))
        in_folders = lambda key: delimiter and delimiter in key.removeprefix(prefix)
        folders = dict.fromkeys(prefix + key.removeprefix(prefix).split(delimiter)[0] + delimiter for key, _ in listed if in_folders(key))
        written = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        contents = "".join(f"<Contents><Key>{key}</Key>{written}<Size>{size}</Size></Contents>" for key, size in listed if not in_folders(key))
        contents += "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
        self.xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>")

    def range(self, size):
        if "range" not in self.headers:
            return 0, size
        first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size

    def send(self, there, first, last):
        at = 0
        for piece in there.pieces:
            begin, end = max(first - at, 0), min(last - at, length(piece))
            at += length(piece)
            if begin >= end:
                continue
            if isinstance(piece, bytes):
                self.wfile.write(piece[begin:end])
                continue
            self.wfile.flush()
            with open(piece, "rb") as file:
                self.connection.sendfile(file, begin, end - begin)

    @classmethod
    def stored(cls, prefix):
        """Bytes under a prefix."""
        return sum(there.size for path, there in list(cls.objects.items()) if path.startswith(prefix))

    @classmethod
    def body_of(cls, path, file):
        """Writes an object to a file."""
        with open(file, "wb") as to:
            for piece in cls.objects[path].pieces:
                if isinstance(piece, bytes):
                    to.write(piece)
                else:
                    with open(piece, "rb") as source:
                        shutil.copyfileobj(source, to, SMALL)

    @classmethod
    def forget(cls, prefix):
        """Removes what lies under a prefix."""
        cls.remove(path for path in list(cls.objects) if path.startswith(prefix))

    @classmethod
    def remove(cls, paths):
        with cls.lock:
            for path in paths:
                for piece in (cls.objects.pop(path).pieces if path in cls.objects else []):
                    if isinstance(piece, pathlib.Path):
                        piece.unlink()
