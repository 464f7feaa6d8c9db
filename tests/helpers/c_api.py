"""A client of TensorFlow's C API, which calls a SavedModel without any of TensorFlow's Python."""

# Its arguments: a SavedModel, requests as JSON, the .npz file for the answers, and TensorFlow's folder.
C_CLIENT = """
    import ctypes, json, sys
    import numpy as np

    assert "tensorflow" not in sys.modules
    folder, requests, results = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
    ctypes.CDLL(sys.argv[4] + "/libtensorflow_framework.so.2", ctypes.RTLD_GLOBAL)
    c = ctypes.CDLL(sys.argv[4] + "/libtensorflow_cc.so.2", ctypes.RTLD_GLOBAL)
    P = ctypes.c_void_p
    pointers = ["TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel"]
    for name in [*pointers, "TF_AllocateTensor", "TF_TensorData", "TF_GraphOperationByName"]:
        getattr(c, name).restype = ctypes.c_void_p
    c.TF_StringInit.argtypes, c.TF_StringCopy.argtypes = [P], [P, ctypes.c_char_p, ctypes.c_size_t]
    c.TF_Message.restype = ctypes.c_char_p
    c.TF_Dim.restype = ctypes.c_int64
    c.TF_TensorByteSize.restype = ctypes.c_size_t

    class Output(ctypes.Structure):
        _fields_ = [("operation", P), ("index", ctypes.c_int)]

    # The size of a text in a tensor, TF_TString; 7 is the type of such tensors.
    TEXT = 24
    TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "float16": 19}
    status, graph = P(c.TF_NewStatus()), P(c.TF_NewGraph())
    tags = (ctypes.c_char_p * 1)(b"serve")
    options = P(c.TF_NewSessionOptions())
    session = P(c.TF_LoadSessionFromSavedModel(options, None, folder.encode(), tags, 1, graph, None, status))
    assert c.TF_GetCode(status) == 0, c.TF_Message(status)

    def output(name):
        operation, index = name.split(":")
        found = c.TF_GraphOperationByName(graph, operation.encode())
        assert found, name
        return Output(found, int(index))

    def tensor(array):
        array = np.ascontiguousarray(array)
        shape = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
        made = P(c.TF_AllocateTensor(TYPES[array.dtype.name], shape, array.ndim, ctypes.c_size_t(array.nbytes)))
        ctypes.memmove(P(c.TF_TensorData(made)), array.ctypes.data, array.nbytes)
        return made

    def tensor_of_texts(texts):
        shape = (ctypes.c_int64 * 1)(len(texts))
        made = P(c.TF_AllocateTensor(7, shape, 1, ctypes.c_size_t(TEXT * len(texts))))
        for number, text in enumerate(texts):
            place = c.TF_TensorData(made) + TEXT * number
            c.TF_StringInit(place)
            c.TF_StringCopy(place, text.encode(), len(text.encode()))
        return made

    answers, codes = {}, {}
    for key, request in requests.items():
        feeds, fetches = request["feeds"], request["fetches"]
        tensors = [
            tensor_of_texts(values) if dtype == "object"
            else tensor(np.zeros(shape, dtype) if values is None else np.array(values, dtype).reshape(shape))
            for dtype, shape, values in feeds.values()
        ]
        received = (P * len(fetches))()
        c.TF_SessionRun(
            session, None,
            (Output * len(feeds))(*map(output, feeds)), (P * len(feeds))(*tensors), len(feeds),
            (Output * len(fetches))(*map(output, fetches.values())), received, len(fetches),
            None, 0, None, status,
        )
        codes[key] = [c.TF_GetCode(status), c.TF_Message(status).decode()]
        if codes[key][0] == 0:
            for name, pointer in zip(fetches, map(P, received)):
                shape = [c.TF_Dim(pointer, axis) for axis in range(c.TF_NumDims(pointer))]
                content = ctypes.string_at(c.TF_TensorData(pointer), c.TF_TensorByteSize(pointer))
                answers[key + "/" + name] = np.frombuffer(content, np.float32).reshape(shape)
    np.savez(results, codes=json.dumps(codes), **answers)
"""
