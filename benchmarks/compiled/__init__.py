"""Programs compiled for accelerators that are not there.

    python -m benchmarks.compiled [--target=v5e:2x4,v6e:2x4,h100x8]
                                  [--what=train,eval,embed,pairs,head,search]
                                  [--chips=1,8,64,256] [--json=FILE]

A compiled program says what it multiplies, moves, keeps and sends, a device
and step: `hlo.py` reads that. It runs on a CPU alone, with the compiler of the
target (`requirements-compiled.txt`). Nothing is timed but the compiler.
"""
