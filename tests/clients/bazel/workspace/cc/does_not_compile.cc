int main() { return this_name_is_not_declared; }
