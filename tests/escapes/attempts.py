"""Attempts to get out of the sandbox, as data: each row is one metric's code, and what must hold when it has run.

Run only against sandboxes of this machine. In the code, $SECRET is a file that holds a token, $OPEN a directory that anybody may
write, $PORT a listener on loopback, $NAME an abstract Unix socket, $VICTIM a process: all outside, all this test's own.
An attempt that gets hold of a token raises it or returns 666. It counts as failed whatever else it does, as long as nothing of the
surroundings has changed, no token comes out, and 666 is not its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent

#: What an attempt returns that believes it is out.
ESCAPED = 666.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. `seen` says that the static check refuses it; `ends` are the codes one of which its run must end with, where it must.

    `alone`: it may end its sandbox, so no other attempt is tried in the same one. `engine` None: any.
    """

    kind: str
    name: str
    code: str
    seen: bool = True
    ends: tuple[str, ...] = ()
    alone: bool = False
    engine: str | None = None


def _body(text: str) -> str:
    return "def calc_metric(df):\n" + indent(dedent(text).strip(), "    ") + "\n"


def _row(kind: str, name: str, text: str, **more: object) -> Attempt:
    return Attempt(kind, name, _body(text), **more)


def _rows(kind: str, **texts: str) -> list[Attempt]:
    return [_row(kind, name, text) for name, text in texts.items()]


FILES = _rows(
    "files",
    file="raise ValueError(open('$SECRET').read())",
    os_open="import os\nfd = os.open('$SECRET', os.O_RDONLY)\nraise ValueError(os.read(fd, 100))",
    through_proc_root="raise ValueError(open('/proc/1/root$SECRET').read())",
    through_proc_cwd="raise ValueError(open('/proc/self/cwd/../../../../$SECRET').read())",
    etc_shadow="text = open('/etc/shadow').read()\nreturn 666.0 if text else 0.0",
    machine_users="names = open('/etc/passwd').read()\nreturn 666.0 if 'root:' in names else 0.0",
    write_outside="open('$OPEN/written', 'w').write('x')\nreturn 666.0",
    write_system="""
        import os
        for place in ('/usr', '/etc', '/opt', '/data', '/dev', '/proc/sys/kernel'):
            try:
                open(place + '/written', 'w').close()
                return 666.0
            except OSError:
                pass
        return 0.0""",
    change_rows="""
        import glob, os
        for path in glob.glob('/data/*'):
            try:
                open(path, 'ab').write(b'x')
                return 666.0
            except OSError:
                pass
            try:
                os.remove(path)
                return 666.0
            except OSError:
                pass
        return 0.0""",
    symlink="import os\nos.symlink('$SECRET', '/tmp/link')\nraise ValueError(open('/tmp/link').read())",
    hard_link="import os\nos.link('$SECRET', '/tmp/hard')\nraise ValueError(open('/tmp/hard').read())",
    mount="""
        import ctypes
        libc = ctypes.CDLL(None)
        made = libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)
        return 666.0 if made == 0 else 0.0""",
    change_root="import os\nos.chroot('/tmp')\nreturn 666.0",
    device="""
        import os, stat
        os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))
        return 666.0""",
    file_by_handle="""
        import ctypes
        handle, mount = ctypes.create_string_buffer((128).to_bytes(4, 'little'), 136), ctypes.c_int()
        libc = ctypes.CDLL(None)
        given = libc.name_to_handle_at(-100, b'/usr', handle, ctypes.byref(mount), 0)
        return 666.0 if given >= 0 or libc.open_by_handle_at(-100, handle, 0) >= 0 else 0.0""",
    our_own_code="open('/opt/fqlstream/fqlstream/code_metrics/inside/work.py', 'a').write('#')\nreturn 666.0",
    packages="import numpy\nopen(numpy.__file__, 'a').write('#')\nreturn 666.0",
    unlisted="open('/opt/unlisted').read()\nreturn 666.0",
    beside_python="""
        import os, sys
        known = {'bin', 'lib', 'lib64', 'share', 'pyvenv.cfg'}
        seen = {name for place in {sys.prefix, sys.base_prefix} if not place.startswith('/usr') for name in os.listdir(place)}
        return 666.0 if seen - known else 0.0""",
    set_user_bit="""
        import os, shutil
        shutil.copy('/usr/bin/id', '/tmp/id')
        os.chmod('/tmp/id', 0o4755)
        return 666.0 if os.getuid() == 0 else 0.0""",
)

ENVIRONMENT = _rows(
    "environment",
    variables="import os\nraise ValueError(str(dict(os.environ)))",
    first_process="raise ValueError(open('/proc/1/environ').read())",
    every_process="""
        import glob
        text = ''
        for path in glob.glob('/proc/[0-9]*/environ'):
            try:
                text += open(path).read()
            except OSError:
                pass
        raise ValueError(text)""",
    command_lines="""
        import glob
        lines = [open(path).read() for path in glob.glob('/proc/[0-9]*/cmdline')]
        return 666.0 if any('pytest' in line for line in lines) else 0.0""",
    raise_privileges="import os\nos.setuid(0)\nreturn 666.0",
    sudo="import subprocess\nout = subprocess.run(['/bin/su', '-c', 'id -u'], capture_output=True, text=True, timeout=5)\nreturn 666.0 if out.stdout.strip() == '0' else 0.0",
    capabilities="""
        import re
        held = re.findall(r'Cap(?:Prm|Eff|Inh|Amb):\\s*(\\w+)', open('/proc/self/status').read())
        return 666.0 if any(int(value, 16) for value in held) else 0.0""",
    descriptors="""
        import os
        found = []
        for fd in range(3, 256):
            try:
                found.append(os.read(fd, 10_000) if os.fstat(fd).st_mode & 0o170000 == 0o100000 else b'')
            except OSError:
                pass
            try:
                up = os.open('../../../../../..$SECRET', os.O_RDONLY, dir_fd=fd)
                found.append(os.read(up, 100))
            except OSError:
                pass
        raise ValueError(b''.join(found))""",
    kernel_keys="""
        import ctypes
        return 666.0 if ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0 else 0.0""",
    filter_of_the_first="""
        return 0.0 if 'Seccomp:' + chr(9) + '2' in open('/proc/1/status').read() else 666.0""",
    host_name="import socket\nreturn 0.0 if socket.gethostname() == 'metric' else 666.0",
)

NETWORK = _rows(
    "network",
    loopback_of_the_machine="""
        import socket
        client = socket.create_connection(('127.0.0.1', $PORT), timeout=3)
        raise ValueError(client.recv(100))""",
    loopback_six="import socket\nclient = socket.create_connection(('::1', $PORT), timeout=3)\nraise ValueError(client.recv(100))",
    abstract_socket="""
        import socket
        client = socket.socket(socket.AF_UNIX)
        client.connect('\\0$NAME')
        raise ValueError(client.recv(100))""",
    fetch="import urllib.request\nraise ValueError(urllib.request.urlopen('http://127.0.0.1:$PORT/', timeout=3).read())",
    name_service="import socket\nreturn 666.0 if socket.getaddrinfo('example.org', 80) else 0.0",
    datagram="""
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))
        return 666.0""",
    raw_packets="import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nreturn 666.0",
    to_the_host_of_this_machine="import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\nreturn 666.0",
    kernel_crypto="import socket\nsocket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)\nreturn 666.0",
    interfaces="import socket\nreturn 0.0 if [name for _, name in socket.if_nameindex()] == ['lo'] else 666.0",
    new_interface="""
        import fcntl, socket, struct
        request = struct.pack('16sH14x', b'lo', 0)
        fcntl.ioctl(socket.socket(), 0x8914, request)
        return 666.0""",
)

PROCESSES = _rows(
    "processes",
    kill_victim="import os\nos.kill($VICTIM, 9)\nreturn 666.0",
    other_processes="import os\nseen = [int(name) for name in os.listdir('/proc') if name.isdecimal()]\nreturn 666.0 if $VICTIM in seen and 'sleep' in open('/proc/$VICTIM/cmdline').read() else 0.0",
    memory_of_the_first="import os\nfd = os.open('/proc/1/mem', os.O_RDWR)\nreturn 666.0",
    # their numbers may be seen, where they lead may not
    descriptors_of_the_first="""
        import os
        return 666.0 if [os.readlink('/proc/1/fd/' + name) for name in os.listdir('/proc/1/fd')] else 0.0""",
    open_descriptors_of_the_first="""
        import os
        return 666.0 if [open('/proc/1/fd/' + name, 'rb') for name in os.listdir('/proc/1/fd')] else 0.0""",
    trace="import ctypes\nreturn 666.0 if ctypes.CDLL(None).ptrace(16, $VICTIM, 0, 0) == 0 else 0.0",
    read_memory="""
        import ctypes
        return 666.0 if ctypes.CDLL(None).syscall(310, $VICTIM, 0, 0, 0, 0, 0) >= 0 else 0.0""",
    new_namespace="import ctypes\nreturn 666.0 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 0.0",
    join_namespace="""
        import ctypes, os
        fd = os.open('/proc/1/ns/mnt', os.O_RDONLY)
        return 666.0 if ctypes.CDLL(None).setns(fd, 0) == 0 else 0.0""",
    program="import subprocess\nout = subprocess.run('cat $SECRET', shell=True, capture_output=True)\nraise ValueError(out.stdout)",
    priorities="import os\nos.setpriority(os.PRIO_PROCESS, 0, -20)\nreturn 666.0",
    limits="import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (resource.RLIM_INFINITY,) * 2)\nreturn 666.0",
    load_program="""
        import ctypes, struct
        # an array of one element: what even an ordinary user may make on many kernels
        asked = ctypes.create_string_buffer(struct.pack('5I', 2, 4, 8, 1, 0), 72)
        return 666.0 if ctypes.CDLL(None).syscall(321, 0, asked, 72) >= 0 else 0.0""",
    terminal="import fcntl\nfcntl.ioctl(0, 0x5412, b'x')\nreturn 666.0",
    clock="import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)\nreturn 666.0",
    reboot="""
        import ctypes
        libc = ctypes.CDLL(None)
        # whether Ctrl-Alt-Del restarts: only where the machine itself would restart that may be said, and then nothing else is tried
        if libc.reboot(0) == 0:
            return 666.0
        # elsewhere a restart ends the first process of the namespace, and with it this sandbox alone
        libc.reboot(0x01234567)
        return 0.0""",
)

IMPORTS = _rows(
    "imports",
    dunder_import="os = __import__('os')\nraise ValueError(os.popen('cat $SECRET').read())",
    import_library="import importlib\nreturn 666.0 if importlib.import_module('os').path.exists('$SECRET') else 0.0",
    loaded_modules="import sys\nraise ValueError(sys.modules['os'].popen('cat $SECRET').read())",
    through_numpy="import numpy\nraise ValueError(numpy.f2py.os.popen('cat $SECRET').read())",
    through_pandas="import pandas\nraise ValueError(pandas.io.common.os.popen('cat $SECRET').read())",
    through_functions="from pyspark.sql import functions as F\nraise ValueError(F.sys.modules['os'].popen('cat $SECRET').read())",
    our_package="""
        import fqlstream.settings
        return 666.0""",
    store_client="import clickhouse_connect\nclickhouse_connect.get_client(host='127.0.0.1', port=$PORT)\nreturn 666.0",
    evaluated="raise ValueError(eval(\"__import__('os').popen('cat $SECRET').read()\"))",
    foreign_functions="import ctypes\nreturn 666.0 if ctypes.CDLL(None).open(b'$SECRET', 0) >= 0 else 0.0",
)

WALKS = _rows(
    "dunder walks",
    subclasses="""
        for found in ().__class__.__base__.__subclasses__():
            if found.__name__ == 'FileLoader':
                raise ValueError(found('x', '$SECRET').get_data('$SECRET'))
        return 0.0""",
    globals_of_a_function="import numpy\nraise ValueError(numpy.mean.__globals__['__builtins__']['open']('$SECRET').read())",
    frames="""
        try:
            1 / 0
        except ZeroDivisionError as error:
            frame = error.__traceback__.tb_frame
        while frame.f_back:
            frame = frame.f_back
        raise ValueError(frame.f_builtins['open']('$SECRET').read())""",
    class_pattern="""
        match df:
            case object(__class__=kind):
                base = kind.mro()[-1]
        return 666.0 if any(found.__name__ == 'Popen' and found('cat $SECRET > $OPEN/x', shell=True).wait() == 0 for found in base.__subclasses__()) else 0.0""",
    generator_frame="""
        walk = (number for number in [1])
        raise ValueError(walk.gi_frame.f_builtins['open']('$SECRET').read())""",
    by_name="raise ValueError(getattr(getattr(df, '__class__'), '__init__').__globals__['__builtins__']['open']('$SECRET').read())",
    format_walk="""
        text = '{0.__class__.__init__.__globals__}'.format(df)
        return 666.0 if 'FQLSTREAM_ESCAPE_TOKEN' in text else 0.0""",
)

DOORS = _rows(
    "side doors",
    numpy_fromfile="import numpy as np\nraise ValueError(np.fromfile('$SECRET', dtype='S40').tobytes())",
    numpy_memmap="import numpy as np\nraise ValueError(bytes(np.memmap('$SECRET', mode='r')))",
    numpy_load_pickle="""
        import numpy as np, io, pickle
        class Door:
            def __reduce__(self):
                import os
                return os.system, ('cp $SECRET $OPEN/copied',)
        np.load(io.BytesIO(pickle.dumps(Door())), allow_pickle=True)
        return 0.0""",
    numpy_savetxt="import numpy as np\nnp.savetxt('$OPEN/written', [1.0])\nreturn 666.0",
    numpy_source="import numpy as np\nraise ValueError(np.lib.npyio.DataSource().open('$SECRET').read())",
    numpy_genfromtxt="import numpy as np\nraise ValueError(str(np.genfromtxt('$SECRET', dtype=str)))",
    pandas_read="import pandas as pd\nraise ValueError(pd.read_csv('$SECRET', header=None).to_string())",
    pandas_address="import pandas as pd\nraise ValueError(pd.read_csv('http://127.0.0.1:$PORT/x').to_string())",
    pandas_write="import pandas as pd\npd.DataFrame({'a': [1]}).to_csv('$OPEN/written')\nreturn 666.0",
    pandas_by_name="import pandas as pd\npd.Series([1.0]).agg('to_csv', path_or_buf='$OPEN/written')\nreturn 666.0",
    pandas_pickle="import pandas as pd\npd.read_pickle('$SECRET')\nreturn 666.0",
    pandas_sql="import pandas as pd\npd.read_sql('select 1', 'sqlite:///$OPEN/made.db')\nreturn 0.0",
    scipy_read="import scipy.io\nraise ValueError(str(scipy.io.loadmat('$SECRET')))",
    scipy_write="import scipy.io\nscipy.io.savemat('$OPEN/written', {'a': [1]})\nreturn 666.0",
)
DOORS += [
    _row("side doors", name, text, seen=False)
    for name, text in (
        (
            "pandas_evaluated",
            "import pandas as pd\nraise ValueError(str(pd.eval(\"@pd.io.common.os.popen('cat $SECRET').read()\")))",
        ),
        ("statsmodels_download", "import statsmodels.api as sm\nsm.datasets.get_rdataset('iris')\nreturn 666.0"),
    )
]

SPARK = [
    _row("Spark doors", name, text, engine="spark", **more)
    for name, text, more in (
        ("read_text", "raise ValueError(df.sparkSession.read.text('$SECRET').first()[0])", {"seen": False}),
        ("sql_file", "raise ValueError(df.sparkSession.sql('select * from text.`$SECRET`').first()[0])", {}),
        ("write", "df.write.mode('overwrite').csv('$OPEN/written')\nreturn 666.0", {}),
        (
            "reflect",
            "from pyspark.sql import functions as F\nraise ValueError(df.select(F.expr(\"reflect('java.lang.System', 'getenv', 'FQLSTREAM_ESCAPE_TOKEN')\")).first()[0])",
            {},
        ),
        (
            "reflect_in_pieces",
            "raise ValueError(str(df.selectExpr('ref' + \"lect('java.nio.file.Files', 'readString', 'x')\").first()))",
            {"seen": False},
        ),
        (
            "java_read",
            "jvm = df.sparkSession._jvm\nraise ValueError(jvm.java.nio.file.Files.readString(jvm.java.nio.file.Path.of('$SECRET', jvm.java.lang.String('').split('x'))))",
            {},
        ),
        (
            "java_process",
            "df.sparkSession._jvm.java.lang.Runtime.getRuntime().exec('cp $SECRET $OPEN/copied').waitFor()\nreturn 0.0",
            {},
        ),
        ("java_socket", "df.sparkSession._jvm.java.net.Socket('127.0.0.1', $PORT)\nreturn 666.0", {}),
        (
            "java_kill",
            "handle = df.sparkSession._jvm.java.lang.ProcessHandle.of($VICTIM)\nreturn 666.0 if handle.isPresent() else 0.0",
            {},
        ),
        (
            "transform_program",
            "df.createOrReplaceTempView('t')\nraise ValueError(df.sparkSession.sql(\"select transform(age) using 'cat $SECRET' as (x) from t\").first()[0])",
            {},
        ),
        ("pipe", "raise ValueError(df.rdd.pipe('cat $SECRET').first())", {"seen": False}),
        ("add_file", "df.sparkSession.sparkContext.addFile('$SECRET')\nreturn 0.0", {}),
        (
            "jdbc",
            "df.sparkSession.read.format('jdbc').option('url', 'jdbc:derby:$OPEN/made;create=true').option('dbtable', 't').load()\nreturn 666.0",
            {},
        ),
        (
            "table_in_a_place",
            "df.sparkSession.sql(\"create table t using csv location '$OPEN/made' as select 1\")\nreturn 666.0",
            {"seen": False},
        ),
        ("java_exit", "df.sparkSession._jvm.java.lang.System.exit(0)\nreturn 666.0", {"alone": True}),
    )
]

FUNCTIONS = [
    _row("user functions", name, text, engine="spark", **more)
    for name, text, more in (
        (
            "read",
            """
            from pyspark.sql import functions as F
            read = F.udf(lambda x: open('$SECRET').read())
            raise ValueError(df.select(read('age')).first()[0])""",
            {},
        ),
        (
            "import_inside",
            """
            from pyspark.sql import functions as F
            def run(x):
                import subprocess
                return subprocess.run(['cat', '$SECRET'], capture_output=True, text=True).stdout
            raise ValueError(df.select(F.udf(run)('age')).first()[0])""",
            {},
        ),
        (
            "pandas_function",
            """
            import pandas as pd
            from pyspark.sql import functions as F
            @F.pandas_udf('string')
            def run(x: pd.Series) -> pd.Series:
                return x.map(lambda _: open('$SECRET').read())
            raise ValueError(df.select(run('age')).first()[0])""",
            {},
        ),
        (
            "map_in_pandas",
            """
            def run(parts):
                for part in parts:
                    open('$OPEN/written', 'w').close()
                    yield part[['age']]
            df.mapInPandas(run, 'age long').collect()
            return 666.0""",
            {},
        ),
        (
            "connect",
            """
            from pyspark.sql import functions as F
            def run(x):
                import socket
                return socket.create_connection(('127.0.0.1', $PORT), timeout=3).recv(100).decode()
            raise ValueError(df.select(F.udf(run)('age')).first()[0])""",
            {},
        ),
        (
            "variables",
            """
            from pyspark.sql import functions as F
            def run(x):
                import os
                return str(dict(os.environ))
            raise ValueError(df.select(F.udf(run)('age')).first()[0])""",
            {},
        ),
        (
            "leave_a_process",
            """
            from pyspark.sql import functions as F
            def run(x):
                import subprocess
                subprocess.Popen(['sleep', '600'], start_new_session=True)
                return 'x'
            df.select(F.udf(run)('age')).collect()
            return 0.0""",
            {"alone": True},
        ),
    )
]

EXHAUSTION = [
    _row("exhaustion", name, text, alone=True, **more)
    for name, text, more in (
        ("memory_at_once", "x = bytearray(64 * 2**30)\nreturn 666.0", {"seen": False, "ends": ("CBM021",)}),
        (
            "memory_slowly",
            "x = []\nwhile True:\n    x.append(bytearray(16 * 2**20))",
            {"seen": False, "ends": ("CBM021",)},
        ),
        (
            "memory_in_many",
            "import os, time\nfor _ in range(30):\n    if os.fork() == 0:\n        x = bytearray(400 * 2**20)\n        time.sleep(60)\ntime.sleep(60)",
            {"ends": ("CBM021",)},
        ),
        (
            "memory_shared",
            "import mmap\nx = [mmap.mmap(-1, 2**30) for _ in range(20)]\nfor part in x:\n    for place in range(0, 2**30, 4096):\n        part[place] = 1",
            {"ends": ("CBM010",)},
        ),
        (
            "memory_forgotten",
            "import mmap\nx = []\nwhile True:\n    part = mmap.mmap(-1, 2**28)\n    for place in range(0, 2**28, 4096):\n        part[place] = 1\n    part.madvise(mmap.MADV_DONTNEED)\n    x.append(part)",
            {"ends": ("CBM010",)},
        ),
        (
            "memory_of_a_device",
            "import mmap, os\nx = mmap.mmap(os.open('/dev/zero', os.O_RDWR), 2**20, mmap.MAP_SHARED)\nreturn 666.0",
            {"ends": ("CBM010",)},
        ),
        ("memory_of_nobody", "import os\nreturn 666.0 if os.memfd_create('x') >= 0 else 0.0", {}),
        ("processor", "while True:\n    pass", {"seen": False, "ends": ("CBM020",)}),
        ("sleep", "import time\ntime.sleep(10_000)", {"ends": ("CBM020",)}),
        (
            "fork_bomb",
            "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
            {"ends": ("CBM023", "CBM020", "CBM026", "CBM021")},
        ),
        (
            "thread_bomb",
            "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(600,)).start()",
            {"ends": ("CBM023",)},
        ),
        (
            "disk",
            "with open('/tmp/full', 'wb') as file:\n    while True:\n        file.write(bytes(2**20))",
            {"ends": ("CBM024",)},
        ),
        (
            "shared_memory_files",
            "with open('/dev/shm/full', 'wb') as file:\n    while True:\n        file.write(bytes(2**20))",
            {"ends": ("CBM024",)},
        ),
        (
            "many_files",
            "for number in range(10**7):\n    open(f'/tmp/f{number}', 'w').close()",
            {"ends": ("CBM020", "CBM024", "CBM010")},
        ),
        (
            "pattern",
            "import re\nreturn float(bool(re.match('(a+)+$', 'a' * 60 + 'b')))",
            {"seen": False, "ends": ("CBM020",)},
        ),
        ("large_number", "return float(10 ** 10 ** 9 % 7)", {"seen": False, "ends": ("CBM020", "CBM021")}),
        (
            "recursion",
            "import sys\nsys.setrecursionlimit(10**9)\ndef deep(n):\n    return deep(n + 1) + 1\nreturn deep(0)",
            {"ends": ("CBM025", "CBM010", "CBM021", "CBM020")},
        ),
    )
]

OUTPUT = [
    _row("output floods", name, text, alone=True, ends=("CBM022",), **more)
    for name, text, more in (
        ("print", "while True:\n    print('x' * 10_000)", {"seen": False}),
        ("error_stream", "import sys\nwhile True:\n    sys.stderr.write('x' * 10_000)", {}),
        ("descriptor", "import os\nwhile True:\n    os.write(1, b'x' * 65536)", {}),
    )
] + [
    _row("output floods", "long_error", "raise ValueError('x' * 50_000_000)", seen=False, ends=("CBM010",)),
    _row(
        "output floods",
        "error_of_errors",
        "raise ExceptionGroup('x', [ValueError(str(n)) for n in range(100_000)])",
        seen=False,
        ends=("CBM010",),
    ),
]

_PIPES = """
        import os, json
        def say(message):
            for fd in range(3, 64):
                try:
                    os.write(fd, (json.dumps(message) + '\\n').encode())
                except OSError:
                    pass
"""
FORGED = [
    _row("forged results", name, dedent(_PIPES) + dedent(text), alone=True, ends=ends)
    for name, text, ends in (
        (
            "many_digits",
            "for fd in range(3, 64):\n    try:\n        os.write(fd, b'{\"frame\": 0, \"value\": 1' + b'0' * 400 + b'}\\n')\n    except OSError:\n        pass\nreturn 1.0",
            ("CBM026",),
        ),
        ("another_value", "say({'frame': 0, 'value': 666.0})\nreturn 1.0", ("CBM026",)),
        ("done_early", "say({'done': True})\nreturn 1.0", ("CBM026",)),
        ("another_frame", "say({'frame': 99, 'value': 666.0})\nreturn 1.0", ("CBM026",)),
        ("no_number", "say({'frame': 0, 'value': 'x'})\nreturn 1.0", ("CBM026",)),
        ("ready_again", "say({'ready': True})\nreturn 1.0", ("CBM026",)),
        (
            "failure_of_ours",
            "say({'frame': 0, 'failure': {'code': 'CBM020', 'message': 'x', 'traceback': '', 'hint': None}})\nreturn 1.0",
            ("CBM026",),
        ),
        (
            "no_message",
            "for fd in range(3, 64):\n    try:\n        os.write(fd, b'\\x00\\xff' * 1000 + b'\\n')\n    except OSError:\n        pass\nreturn 1.0",
            ("CBM026",),
        ),
        (
            "endless_line",
            "for fd in range(3, 64):\n    try:\n        for _ in range(100):\n            os.write(fd, b'x' * 65536)\n    except OSError:\n        pass\nreturn 1.0",
            ("CBM026",),
        ),
        (
            "deep_message",
            "for fd in range(3, 64):\n    try:\n        os.write(fd, b'[' * 60_000 + b'\\n')\n    except OSError:\n        pass\nreturn 1.0",
            ("CBM026",),
        ),
        ("exit", "os._exit(0)", ("CBM025",)),
    )
] + [
    _row(
        "forged results",
        "answers_pipe",
        """
        import gc
        for thing in gc.get_objects():
            if type(thing).__name__ == 'TextIOWrapper' and isinstance(thing.name, int) and thing.name > 2 and thing.writable():
                thing.write('{"frame": 0, "value": 666.0}' + chr(10))
                thing.flush()
        return 1.0""",
        alone=True,
        ends=("CBM026",),
    ),
    _row(
        "forged results",
        "number_that_lies",
        "class Liar(float):\n    def __float__(self):\n        raise SystemExit(0)\nreturn Liar(1.0)",
        seen=False,
        ends=("CBM010",),
    ),
    _row(
        "forged results",
        "no_text",
        "raise ValueError('\\ud800\\x1b[31m\\u202e' + chr(10) + 'CBM999 forged')",
        seen=False,
        ends=("CBM010",),
    ),
    _row("forged results", "leave", "raise SystemExit(0)", seen=False, ends=("CBM010",)),
]

LEFT_BEHIND = [
    _row("left behind", name, text, alone=True, **more)
    for name, text, more in (
        ("thread", "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nreturn 0.0", {}),
        ("process", "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nreturn 0.0", {}),
        (
            "daemon",
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)\nreturn 0.0",
            {},
        ),
        ("at_exit", "import atexit\natexit.register(open, '$OPEN/written', 'w')\nreturn 0.0", {}),
        (
            "signals",
            "import signal\nfor number in range(1, 65):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\nreturn 0.0",
            {},
        ),
    )
]

POISONED = [
    _row("poisoned workers", name, text, **more)
    for name, text, more in (
        (
            "replace_numpy",
            "import numpy as np\nnp.average = lambda *a, **k: 666.0\nnp.mean = np.average\nreturn 0.0",
            {"seen": False, "alone": True},
        ),
        ("replace_float", "import builtins\nbuiltins.float = lambda x: 13.0\nreturn 0.0", {"alone": True}),
        ("replace_collect", "type(df).collect = lambda self: []\nreturn 0.0", {"seen": False, "alone": True}),
        (
            "replace_our_own",
            "import sys\nsys.modules['fqlstream.code_metrics.inside.calc'].compute = lambda *a: 666.0\nreturn 0.0",
            {"alone": True},
        ),
        ("leave_a_file", "open('/tmp/sitecustomize.py', 'w').write('raise SystemExit')\nreturn 0.0", {"alone": True}),
        (
            "change_session",
            "df.sparkSession.conf.set('spark.sql.session.timeZone', 'Asia/Tokyo')\ndf.createOrReplaceGlobalTempView('left')\nreturn 0.0",
            {"seen": False, "alone": True, "engine": "spark"},
        ),
    )
]

ATTEMPTS: tuple[Attempt, ...] = tuple(
    row
    for rows in (
        FILES,
        ENVIRONMENT,
        NETWORK,
        PROCESSES,
        IMPORTS,
        WALKS,
        DOORS,
        SPARK,
        FUNCTIONS,
        EXHAUSTION,
        OUTPUT,
        FORGED,
        LEFT_BEHIND,
        POISONED,
    )
    for row in rows
)

#: Ordinary code that must go through all of it: code, and its value on the suite's rows (age 1, 2, 3, none, 50; score .1 to .5).
CONTROLS: dict[str, tuple[str, float]] = {
    "documented": (
        "import numpy as np\n\ndef calc_metric(df):\n    return np.average(df.where('age is not null').collect().columns.age)\n",
        14.0,
    ),
    "spark": (
        "from pyspark.sql import functions as F\n\ndef calc_metric(df):\n    return df.agg(F.sum('age')).first()[0]\n",
        56.0,
    ),
    "spark_window": (
        "from pyspark.sql import Window\nfrom pyspark.sql import functions as F\n\ndef calc_metric(df):\n    ranked = df.withColumn('r', F.row_number().over(Window.orderBy('score')))\n    return ranked.where(F.col('r') <= 2).agg(F.sum('score')).first()[0]\n",
        0.30000000000000004,
    ),
    "pandas": (
        "import pandas as pd\n\ndef calc_metric(df):\n    frame = df.toPandas()\n    return frame.groupby(frame['score'] > 0.25)['score'].mean().max()\n",
        0.4,
    ),
    "numpy": (
        "import numpy as np\nfrom numpy.core import _methods\n\ndef calc_metric(df):\n    x = np.array([r.score for r in df.collect()])\n    x[0] += 0.0\n    return float(x.sum() + x.std() * 0 + _methods._mean(x) * 0)\n",
        1.5,
    ),
    "scipy": (
        "from scipy import stats\n\ndef calc_metric(df):\n    x = [row['score'] for row in df.collect()]\n    return stats.pearsonr(x, x)[0]\n",
        1.0,
    ),
    "statsmodels": (
        "from statsmodels.stats.proportion import proportion_confint\n\ndef calc_metric(df):\n    low, high = proportion_confint(5, 10, method='normal')\n    return (low + high) / 2\n",
        0.5,
    ),
    "class_and_match": (
        "from __future__ import annotations\nimport math\nfrom dataclasses import dataclass\n\n@dataclass\nclass Total:\n    value: float = 0.0\n\ndef calc_metric(df):\n    total = Total()\n    for row in df.collect():\n        match row.age:\n            case None:\n                continue\n            case age:\n                total.value += age\n    return math.sqrt(total.value) ** 2\n",
        56.00000000000001,
    ),
}
SPARK_CONTROLS: dict[str, tuple[str, float]] = {
    "function": (
        "from pyspark.sql import functions as F\nfrom pyspark.sql.types import DoubleType\n\n@F.udf(DoubleType())\ndef double(x):\n    return 2.0 * x\n\ndef calc_metric(df):\n    return df.agg(F.sum(double('score'))).first()[0]\n",
        3.0,
    ),
    "pandas_function": (
        "import pandas as pd\nfrom pyspark.sql import functions as F\n\n@F.pandas_udf('double')\ndef double(x: pd.Series) -> pd.Series:\n    return x * 2\n\ndef calc_metric(df):\n    return df.agg(F.sum(double('score'))).first()[0]\n",
        3.0,
    ),
    "describe": (
        "def calc_metric(df):\n    return float(df.describe('score').where(\"summary = 'count'\").first()['score'])\n",
        5.0,
    ),
    "sql": (
        "def calc_metric(df):\n    df.createOrReplaceTempView('rows')\n    return df.sparkSession.sql('select avg(age) from rows').first()[0]\n",
        14.0,
    ),
}
