/** What a client is answered. */
record Reply(int exitCode, String output, int id, boolean wasCancelled) {}
