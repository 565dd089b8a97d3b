import java.util.List;

/** What a client asks for: of its inputs only the number is looked at. */
record Work(List<String> arguments, int inputs, int id, boolean cancel, int verbosity, String directory) {}
